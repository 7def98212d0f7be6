"""The flags that ship are those of the engine that is installed, and its own parser takes what is written for it."""

import json
import subprocess
from pathlib import Path

import pytest

from overspan.catalog import flags, overrides, recipes
from overspan.provision import learned
from support.engine import engine_python

pytestmark = pytest.mark.real
PARSE = """
import json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.launchers.cli_args import make_arg_parser
parser = make_arg_parser(FlexibleArgumentParser())
print(json.dumps([parser.parse_args(["a/b", *argv]).max_model_len for argv in json.load(sys.stdin)]))
"""


def run(*arguments: str, text: str = "") -> str:
    command = [str(engine_python()), *arguments]
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, env=environment, input=text, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_engine_at_hand_is_asked_and_says_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = engine_python().parents[1]
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path))
    version = learned.of_environment(environment)
    kept = json.loads((tmp_path / "engine_flags" / f"vllm-{version}.json").read_text())
    shipped = Path(str(flags.__file__)).parent / "engine_flags" / f"vllm-{flags.LATEST}.json"
    told = json.loads(shipped.read_text())
    # The one choice that a build for GPUs has and one for CPUs has not.
    told["flags"]["mm_processor_device"]["choices"].remove("cuda")
    assert kept == {**told, "version": version}


def test_an_engine_on_a_machine_without_a_device_tells_its_flags_too() -> None:
    nothing = "import vllm.platforms as p\nfrom vllm.platforms.interface import UnspecifiedPlatform\n"
    script = (Path(str(learned.__file__)).parent / "engine_side" / "dump_flags.py").read_text()
    future = "from __future__ import annotations\n"
    # What vLLM takes for its platform on a login node that has no GPU.
    text = script.replace(future, f"{future}{nothing}p._current_platform = UnspecifiedPlatform()\n")
    shipped = Path(str(flags.__file__)).parent / "engine_flags" / f"vllm-{flags.LATEST}.json"
    assert json.loads(run("-", text=text))["flags"] == json.loads(shipped.read_text())["flags"]


def test_the_engines_parser_takes_every_recipe() -> None:
    found = [recipes.find(name) for name in recipes.names()]
    found += [overrides.apply(recipe, [f"variant={name}"]) for recipe in found for name in recipe.variants]
    out = run("-c", PARSE, text=json.dumps([flags.VLLM.to_argv(recipe.engine_args) for recipe in found]))
    assert json.loads(out.splitlines()[-1]) == [recipe.engine_args.get("max_model_len") for recipe in found]
