"""An environment that somebody else made: a real Python, and a vLLM that has a version and a parser, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

_PARSER = """
from vllm.platforms import current_platform
def make_arg_parser(parser):
    if not current_platform.device_type:
        raise RuntimeError("Failed to infer device type, please set VLLM_LOGGING_LEVEL=DEBUG")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--only-here", type=int)
    return parser
"""
_PLATFORM = """
class Platform:
    device_type = ""
current_platform = Platform()
"""


def _first_line(folder: Path) -> str:
    """As uv writes it."""
    python = f"{folder}/bin/python"
    return f"#!{python}" if " " not in python else f"#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''"


def make_own_vllm(folder: Path, version: str = "0.26.0", cuda: str | None = "13.0", parser: str = _PARSER) -> Path:
    """The environment's folder. `cuda`: what its torch is built for. Its machine has no device, as a login node."""
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    info = site / f"vllm-{version}.dist-info"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    files = {
        folder / "bin" / "vllm": f"{_first_line(folder)}\nraise SystemExit\n",
        info / "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n",
        info / "RECORD": "../../../bin/vllm,,\nvllm/__init__.py,,\n",
        site / "torch/version.py": f"cuda: Optional[str] = {cuda!r}\n",
        site / "vllm/__init__.py": f"__version__ = {version!r}\n",
        site / "vllm/config.py": "",
        site / "vllm/platforms.py": _PLATFORM,
        site / "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
        site / "vllm/entrypoints/launchers/cli_args.py": parser,
        site / "pydantic/fields.py": "class FieldInfo: pass\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "bin" / "vllm").chmod(0o755)
    return folder
