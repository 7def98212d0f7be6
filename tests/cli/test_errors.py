"""Errors are told in one style, and amounts in the right number."""

import json

import pytest

from overspan.cli.main import main
from overspan.cli.status import block
from overspan.runs.live import Sight, Traffic
from overspan.runs.status import RunStatus
from overspan.schema.units import count

_STATUS = RunStatus(
    run="a", name="a", state="ready", since_s=1.0, message="ready", ready=True, endpoint=None, model=None, processes=[]
)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "what", "next"),
    [
        (["plan"], "missing argument 'MODEL'", "overspan plan --help"),
        (["list", "--nosuch"], "no such option '--nosuch'", "overspan list --help"),
        (["verify", "--samples", "0"], "invalid value for '--samples': 0 is not in", "overspan verify --help"),
        (["bench", "-c", "abc"], "'abc' is not a number of users: write 1,4,16", "overspan bench --help"),
        (["recipe", "nosuch"], "no such command 'nosuch'", "overspan recipe --help"),
        (["inventory", "example", "x"], "is not one of", "overspan inventory example --help"),
        (["prune", "--older-than", "x"], "is no age", "overspan prune --help"),
        (["detect", "--replay", ".", "--hosts", "a"], "--replay cannot be used with", "overspan detect --help"),
    ],
)
def test_a_misuse_is_told_as_every_other_error(
    arguments: list[str], what: str, next: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = refused(capsys, *arguments)
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert first.startswith("error: ") and what in first
    assert not first.endswith(".")
    assert second == f"next: {next}"


def test_a_misuse_is_json_where_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = refused(capsys, "list", "--json", "--nosuch")
    assert code == 2
    assert json.loads(out)["exit_code"] == 2


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = refused(capsys, "recipe")
    assert "Commands:" in out + err
    assert "error" not in out + err


def test_one_is_singular(capsys: pytest.CaptureFixture[str]) -> None:
    assert [count(number, "process") for number in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    for running, said in ((0.0, "0 requests"), (1.0, "1 request"), (2.0, "2 requests")):
        sight = Sight(_STATUS, [], Traffic(1.0, running, 0.0, None), {}, None)
        assert f" {said} running" in block(sight)
    arguments = ("simulate", "minimax-m2.5", "--gpu", "h200", "--fleet", "4", "--slo", "tpot=300")
    with pytest.raises(SystemExit):
        main(list(arguments))
    out = capsys.readouterr().out
    assert "1 unit of" in out
    assert "1 units" not in out
