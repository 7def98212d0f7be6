"""The shell asks, by click's own protocol, what may stand where the cursor is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.cli.main import COMMANDS

_LOADED = "import sys, atexit\natexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))\n"
_MAIN = _LOADED + "from overspan.cli.main import main\nmain()"


def complete(words: str, home: Path) -> tuple[list[str], str]:
    """What bash is told for a line that ends at the cursor, and the modules that were loaded."""
    line = words.split(" ")
    asked = {
        "_OVERSPAN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(line) - 1),
        "OVERSPAN_STATE": str(home / "state"),
        "OVERSPAN_CACHE": str(home / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _MAIN], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in (
        "state/runs/pair-20260102-030405-abcd",
        "state/runs/.locks",
        "state/sweeps/ladder-20260102-030405-abcd",
        "cache/engines/cpu-1234567890ab",
    ):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("overspan up minimax-m3", ["plain,minimax-m3-mxfp8"]),
        ("overspan plan smollm2-135m --on two", ["plain,two-sparks"]),
        ("overspan predict x --gpu gb3", ["plain,gb300"]),
        ("overspan simulate x --gpu rtx", ["plain,rtx-pro-6000"]),
        ("overspan status pa", ["plain,pair", "plain,pair-20260102-030405-abcd"]),
        ("overspan logs pair-", ["plain,pair-20260102-030405-abcd"]),
        ("overspan stop ", ["plain,pair", "plain,pair-20260102-030405-abcd"]),
        ("overspan report lad", ["plain,ladder", "plain,ladder-20260102-030405-abcd"]),
        ("overspan compare pair lad", ["plain,ladder", "plain,ladder-20260102-030405-abcd"]),
        ("overspan sweep m3-gb200-8", ["plain,m3-gb200-8k1k"]),
        ("overspan engine install cuda1", ["plain,cuda12"]),
        ("overspan engine remove c", ["plain,cpu"]),
        ("overspan inventory show lap", ["plain,laptop"]),
        ("overspan recipe show llama", ["plain,llama-3.3-70b"]),
        ("overspan up ./my", ["file,./my"]),
        ("overspan inv", ["plain,inventory"]),
        ("overspan nosuch x", []),
    ],
)
def test_names_are_completed_without_reading_a_document(line: str, expected: list[str], home: Path) -> None:
    told, loaded = complete(line, home)
    assert told == expected
    for heavy in ("pydantic", "yaml", "overspan.runs"):
        assert f"'{heavy}'" not in loaded


def test_with_no_state_at_all_nothing_is_completed_and_nothing_fails(tmp_path: Path) -> None:
    assert complete("overspan status x", tmp_path / "nowhere")[0] == ["file,x"]


_QUICK = """
import json, sys
import click
from overspan.cli.completion import load_quickly

def of(command):
    own = [{**each.to_info_dict(), "default": str(each.default)} for each in command.params]
    inner = command.commands if isinstance(command, click.Group) else {}
    return [own, [[name, of(each)] for name, each in inner.items()]]

def command(name, module):
    return next(each for key, each in vars(module).items() if key.rstrip("_") == name)

import importlib
names = dict.fromkeys(sys.argv[1:]).keys()
quick = {name: load_quickly(f"overspan.cli.{name}") for name in names}
found = {name: of(command(name, module)) for name, module in quick.items() if module}
for name in [each for each in sys.modules if each.startswith("overspan")]:
    del sys.modules[name]
real = {name: of(command(name, importlib.import_module(f"overspan.cli.{name}"))) for name in names}
print(json.dumps({"other": [name for name in found if found[name] != real[name]], "slow": [*names - found.keys()]}))
"""


def test_a_command_that_is_loaded_quickly_has_the_options_of_the_real_one() -> None:
    argv = [sys.executable, "-c", _QUICK, *COMMANDS]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"other": [], "slow": ["prune"]}  # its options hold what prune knows
