"""Write a twin to disk. The engine's own Python does the work: Overspan's has no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import psutil
from pydantic import Field

from overspan.catalog import accounting
from overspan.catalog.quantisation import ignored
from overspan.prove.twin.shrink import PLAIN, Twin
from overspan.provision.children import follow
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.units import gib

_SCRIPTS: Final = Path(__file__).parent / "engine_side"
FACTS: Final = "twin.json"
DEQUANTISED: Final = "dequantised"
"""Folder in a quantised twin: the same weights in BF16, for the reference."""
_LAYOUT: Final = {"nvfp4": "modelopt", "fp8_block": "fp8"}
_MAKING_BYTES: Final = 16
"""A parameter's share at the peak: in FP32, as it is saved, as it is stored and as it is meant."""
_TORCH_BYTES: Final = 2**29
_FEWEST_DISTINCT: Final = 8
"""Of 48 tokens. A twin that says one thing again and again would agree with a broken engine."""
_SEEDS: Final = 4


# Embeddings, norms and routers are quantised by no engine; vLLM builds the router's layer without a quantisation, and
# what stands around the layer of an MTP module too (0.26 and 0.32: models/deepseek_mtp.py).
_NEVER: Final = re.compile(r"embed_tokens|norm|eh_proj|shared_head|\.gate\.weight$|e_score_correction_bias|\.bias$")

# Methods that quantise the LM head too, unless the config says not to. Source, vLLM 0.32: modelopt.py has it among its
# layers, fp8.py has not, and to compressed-tensors' usual target `Linear` it is none (find_matched_target).
_WITH_HEAD: Final = ("modelopt", "modelopt_fp4")


class TwinFacts(Frozen):
    """What was written, and how far it is like the real model."""

    model: str
    architecture: str
    weights: str = "fp32"
    shrunk: dict[str, tuple[int, int]]
    notes: list[str]
    mtp_modules: int = Field(0, description="in the checkpoint, behind the last layer")
    seed: int
    parameters: int = Field(ge=1)
    weight_bytes: int = Field(ge=1)
    distinct_tokens: int = Field(description="distinct tokens in the dullest of four outputs of 48")


def digest(twin: Twin) -> str:
    """Twelve hex digits: the same for a twin that would be written the same."""
    total = hashlib.sha256(twin.model_dump_json().encode())
    for script in sorted(_SCRIPTS.glob("*.py")):
        total.update(script.read_bytes())
    return total.hexdigest()[:12]


def write(model: str, twin: Twin, out: Path, python: Path) -> TwinFacts:
    """Write the twin's checkpoint, tokenizer and facts into a new folder. It exists when it is whole.

    Args:
        model: the real model's name, for the facts.
        twin: what to write.
        out: the folder to make.
        python: an interpreter with transformers: an engine's.

    Raises:
        InputError: the folder holds something already, or cannot be made.
        OverspanError: the engine's Python failed, or every seed gave a twin that repeats itself.
    """
    out = Path(os.path.realpath(out))
    _require_new(out)
    _room(twin)
    for seed in range(_SEEDS):
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".twin-") as temporary:
            folder = Path(temporary) / "twin"
            made = _make(twin, seed, folder, python)
            if made["distinct_tokens"] < _FEWEST_DISTINCT:
                continue
            facts = TwinFacts(
                model=model,
                architecture=twin.architecture,
                weights=twin.weights,
                shrunk=twin.shrunk,
                notes=twin.notes,
                mtp_modules=twin.mtp_modules,
                seed=seed,
                **made,
            )
            (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
            folder.rename(out)
            return facts
    raise OverspanError(f"the twin of {model} repeats itself with every seed tried ({_SEEDS}): it would prove nothing")


def _require_new(out: Path) -> None:
    """Raises InputError where a folder cannot be made, or is one that holds something."""
    elsewhere = "name a folder that does not exist yet"
    try:
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} is not empty", next=elsewhere)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".twin-"):
            pass
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}", next=elsewhere) from None


def _make(twin: Twin, seed: int, folder: Path, python: Path) -> dict[str, Any]:
    """The checkpoint; with quantised weights what they mean lies beside them, in BF16."""
    scratch = folder.parent
    plain = folder if twin.weights in PLAIN else scratch / "plain"
    dtype = "bfloat16" if twin.weights == "bf16" else "float32"
    order = {"config": twin.config, "extra": twin.extra, "seed": seed, "dtype": dtype, "out": str(plain)}
    order |= {"calm": twin.weights != "fp32", "mtp_modules": twin.mtp_modules}
    made: dict[str, Any] = engine_side("build_twin.py", order, python, scratch)
    matrices = made.pop("matrices")
    if twin.weights in PLAIN:
        return made
    stated = twin.quantization_config or {}
    method = str(stated.get("quant_method"))
    order = {
        "seed": seed,
        "plain": str(plain),
        "out": str(folder),
        "dequantised": str(folder / DEQUANTISED),
        "names": quantised(matrices, twin.ignore, method),
        "format": twin.weights,
        "layout": method if method == "compressed-tensors" else _LAYOUT[twin.weights],
        "quantization_config": stated,
    }
    stored: dict[str, Any] = engine_side("quantise_twin.py", order, python, scratch)
    return made | stored


def quantised(names: Iterable[str], ignore: list[str], method: str) -> list[str]:
    """Of a checkpoint's matrices those that are quantised.

    Args:
        names: of the tensors with two dimensions, as in the checkpoint.
        ignore: the modules that the real model's config leaves as they were.
        method: its `quant_method`.
    """
    left = ignore if method in _WITH_HEAD else [*ignore, "lm_head"]
    return [
        name
        for name in names
        if name.endswith(".weight") and not _NEVER.search(name) and not ignored(left, name.removesuffix(".weight"))
    ]


def _room(twin: Twin) -> None:
    """Raises OverspanError where the twin would not fit in memory while it is made."""
    config = {**twin.config, "architectures": [twin.architecture]}
    needed = accounting.count("twin", config).parameters * _MAKING_BYTES + _TORCH_BYTES
    free = psutil.virtual_memory().available
    if free < needed:
        raise OverspanError(
            f"making the twin takes about {gib(needed)} of memory; {gib(free)} are free",
            next="end something, or take --weights fp32, whose widths are smaller" if twin.quantization_config else "",
        )


def engine_side(script: str, order: dict[str, Any], python: Path, scratch: Path) -> Any:
    """Run one of our scripts by the engine's Python; gives the JSON document that its last line is, if any.

    Raises:
        OverspanError: it failed; quotes its last line.
    """
    lines: list[str] = []
    orders = scratch / f"{script}.json"
    orders.write_text(json.dumps(order), encoding="utf-8")
    follow([str(python), str(_SCRIPTS / script), str(orders)], lines.append)
    found = [line for line in lines if line.startswith("{")]
    return json.loads(found[-1]) if found else None
