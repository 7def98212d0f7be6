"""Inventories are listed, shown, checked as a whole and started from an example."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspan.catalog import hardware, inventories, models
from overspan.cli.main import cli
from overspan.runs.planning import Wanted, plan_of

WRONG = """\
name: x
launcher: docke
env: {HF_TOKEN: abc}
name: y
hosts:
  - name: a
    gpu: []
    memory_bytes: 0
    fabric: {interface: "a b", address: 10.0.0.1}
  - name: a
    ssh: {address: "-oX", user: root, prt: 3}
    fabric: {interface: ab, address: 10.0.0.1}
    gpus: [{index: -1, kind: gb10, memory_bytes: 0}]
    container: {options: ["-e", AWS_SECRET_ACCESS_KEY=x]}
"""
EXPECTED = [
    (2, "launcher"),
    (3, "env.HF_TOKEN"),
    (4, None),
    (7, "hosts.0.gpu"),
    (8, "hosts.0.memory_bytes"),
    (9, "hosts.0.fabric.interface"),
    (10, "hosts.1.memory_bytes"),
    (10, "hosts.1.name"),
    (11, "hosts.1.ssh.address"),
    (11, "hosts.1.ssh.prt"),
    (12, "hosts.1.fabric.address"),
    (13, "hosts.1.gpus.0.index"),
    (13, "hosts.1.gpus.0.memory_bytes"),
    (14, "hosts.1.container.options.AWS_SECRET_ACCESS_KEY"),
]


def run(*arguments: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return found.return_value or 0, found.stdout, found.stderr


def test_a_check_tells_every_error_at_once_with_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    code, out, _ = run("inventory", "check", str(file), "--json")
    told = json.loads(out)
    assert code == 2
    assert not told["ok"]
    assert sorted((each["line"], each["field"]) for each in told["errors"] if each["field"]) == sorted(
        each for each in EXPECTED if each[1]
    )
    assert [each["line"] for each in told["errors"]] == [line for line, _ in EXPECTED]
    code, out, said = run("inventory", "check", str(file))
    assert (code, out) == (2, "")
    assert said.count("error: ") == len(EXPECTED)
    assert f"{len(EXPECTED)} errors in" in said


@pytest.mark.parametrize("kind", ["local", "docker", "ssh", "slurm"])
def test_an_example_is_a_whole_inventory_that_can_be_planned_on(kind: str, tmp_path: Path) -> None:
    _, text, _ = run("inventory", "example", kind)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    code, out, said = run("inventory", "check", str(file))
    assert (code, said) == (0, "")
    assert "nothing is wrong" in out
    assert text.count("#") > 5
    plan_of(Wanted("smollm2-135m", str(file)), to_start=False)


def test_what_is_allowed_and_seldom_meant_is_a_note_and_no_error(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    gpus = "gpus: [{index: 0, kind: mi300x, memory_bytes: 1000000000}]"
    host = "{name: %s, memory_bytes: 1000000000, " + gpus + "}"
    file.write_text(f"launcher: docker\nhosts:\n  - {host % 'a'}\n  - {host % 'b'}\n")
    code, _, said = run("inventory", "check", str(file))
    assert code == 0
    assert said.count("note: host b") == 3
    for word in ("mi300x", "no fabric", "no ssh"):
        assert word in said


def test_what_ships_is_listed_and_shown_whole() -> None:
    _, out, _ = run("inventory", "list")
    assert [line.split()[0] for line in out.splitlines()[1:]] == inventories.names()
    assert "72 x gb200" in out
    _, out, _ = run("inventory", "show", "two-sparks")
    assert "# 119.7 GiB" in out
    _, out, _ = run("inventory", "show", "two-sparks", "--json")
    assert len(json.loads(out)["hosts"]) == 2


def test_models_and_kinds_of_gpus_are_listed() -> None:
    _, out, _ = run("catalog", "models")
    assert [line.split()[0] for line in out.splitlines()[1:]] == models.names()
    assert "lukealonso/MiniMax-M2.5-NVFP4" in out
    _, out, _ = run("catalog", "gpus")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [kind for kind in hardware.names() if kind != "cpu"]
    assert "4,800 GB/s" in out
    _, out, _ = run("catalog", "gpus", "--json")
    assert {each["name"] for each in json.loads(out)} == {*hardware.names()} - {"cpu"}
