"""Bad input for what several hosts need: one clear error that names the field and what is allowed, exit code 2, and
nothing is asked, started or written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from overspan.catalog import inventories
from overspan.cli.main import main

MINIMAX = "minimax-m2.5-nvfp4"
Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """Run a command that must be refused with exit code 2 and one error, without a process; gives stderr."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    def run(*argv: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(argv))
        out = capsys.readouterr()
        assert (ended.value.code, out.out) == (2, "")
        assert out.err.lower().count("error:") == 1, out.err
        assert not list((tmp_path / "state").rglob("*.json"))
        return out.err

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    return run


def changed(tmp_path: Path, path: str, value: Any) -> str:
    """The two Sparks with one field changed, as a file."""
    data: Any = inventories.find("two-sparks").model_dump(mode="json", exclude_defaults=True)
    *way, last = path.split(".")
    place = data
    for step in way:
        place = place[int(step)] if step.isdigit() else place.setdefault(step, {})
    place[last] = value
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(data))
    return str(file)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("launcher", "kubernetes", ["'launcher'", "'local', 'docker' or 'slurm'"]),
        ("device", "tpu", ["'device'", "'cpu' or 'cuda'"]),
        ("hosts", [], ["'hosts'", "at least 1"]),
        ("hosts.1.memory_bytes", -3, ["'hosts.1.memory_bytes'", "greater than 0"]),
        ("hosts.1.memroy_bytes", 3, ["unknown key 'hosts.1.memroy_bytes'", "did you mean memory_bytes"]),
        ("hosts.1.name", "a'; touch /tmp/x #", ["'hosts.1.name'", "letters, digits"]),
        ("hosts.1.name", "spark1", ["two hosts have the name spark1"]),
        ("hosts.1.ssh.address", "-oProxyCommand=x", ["'hosts.1.ssh.address'", "a host name or an IP address"]),
        ("hosts.1.ssh.port", 99999, ["'hosts.1.ssh.port'", "65535"]),
        ("hosts.1.fabric.interface", "eth0; reboot", ["'hosts.1.fabric.interface'", "one interface"]),
        ("hosts.1.fabric.address", "10.0.0.1 x", ["'hosts.1.fabric.address'", "an IP address"]),
        ("hosts.1.fabric.address", "10.10.10.1", ["two hosts have the fabric.address 10.10.10.1"]),
        ("hosts.1.container.options", "--privileged", ["'hosts.1.container.options'", "list"]),
        ("hosts.1.env", {"A=B": "x"}, ["'hosts.1.env'", "'A=B' is not a name of an environment variable"]),
        ("env", {"A": "a\0b"}, ["'env'", "NUL byte"]),
        (
            "images",
            {"avarok/dgx-vllm-nvfp4-kernel:v22": "--privileged"},
            ["'images.avarok/dgx-vllm-nvfp4-kernel:v22'", "name of a container image"],
        ),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["up"]])
def test_an_inventory(told: Told, tmp_path: Path, command: list[str], path: str, value: Any, said: list[str]) -> None:
    file = changed(tmp_path, path, value)
    error = told(*command, MINIMAX, "--on", file)
    assert [part for part in said if part not in error] == [], error


@pytest.mark.parametrize("place", ["env", "hosts.1.env"])
def test_a_secret_in_an_inventory_is_refused_unquoted(told: Told, tmp_path: Path, place: str) -> None:
    error = told("plan", MINIMAX, "--on", changed(tmp_path, place, {"HF_TOKEN": "hf_mine"}))
    assert "HF_TOKEN is a secret" in error and "hf_mine" not in error
    assert "export HF_TOKEN" in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plan", MINIMAX, "--on", "two-sparx"], "did you mean two-sparks"),
        (["plan", MINIMAX, "--on", "two-sparks", "--show", "all"], "'commands'"),
        (["plan", MINIMAX, "--on", "two-sparks", "--set", "layout=tp3"], "needs 3 GPUs"),
        (["plan", MINIMAX, "--on", "two-sparks", "--set", "host=a b"], "'host'"),
        (["plan", MINIMAX, "--on", "two-sparks", "--set", "model=--api-key=x"], "'model'"),
        (["up", MINIMAX, "--on", "two-sparks", "--set", "engine=ray"], "vllm-ray"),
        (["up", MINIMAX, "--on", "two-sparks", "--set", "image=--privileged"], "'image'"),
        (["up", "smollm2-135m", "--on", "two-sparks", "--set", "engine=vllm-ray"], "--set image="),
        (["up", MINIMAX, "--on", "two-sparks", "--name", "../x"], "a run's name has letters"),
        (["up", MINIMAX, "--on", MINIMAX], "unknown inventory"),
        (["doctor", "--preflight", "minimax-m2.6", "--on", "two-sparks"], "did you mean minimax-m2.5"),
        (["doctor", "--on", "two-sparks"], "--preflight"),
        (["detect", "--hosts", "a,,b"], "--hosts"),
        (["detect", "--hosts", "a:99999"], "--hosts"),
        (["detect", "--replay", "/nowhere"], "/nowhere is not a folder"),
        (["detect", "--replay", "/", "--hosts", "a"], "--replay"),
        (["status", "nothing"], "unknown run 'nothing'"),
        (["status", "--interval", "1"], "--watch"),
        (["logs", "nothing"], "unknown run 'nothing'"),
        (["logs", "-n", "-1"], "-1"),
        (["stop", "nothing"], "unknown run 'nothing'"),
        (["stop", "--grace", "-1"], "-1"),
        (["chat", "nothing"], "unknown run 'nothing'"),
        (["recipe", "import", "/nowhere.yaml"], "/nowhere.yaml"),
        (["recipe", "show", "minimaxx-m2.5-nvfp4"], "did you mean minimax-m2.5"),
    ],
)
def test_a_command(told: Told, argv: list[str], said: str) -> None:
    assert said in told(*argv)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("env: {'A=B': x}", "'A=B' is not a name of an environment variable"),
        ('env: {A: "a\\0b"}', "NUL byte"),
        ("host: --x", "a host name or an IP address"),
        ("restart: -1", "'restart'"),
        ("image: --privileged", "--privileged"),
    ],
)
def test_a_recipe(told: Told, tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: x\nmodel: a/b\nlayout: pp2\n{'' if 'image' in body else 'image: i:1'}\n{body}\n")
    error = told("plan", str(file), "--on", "two-sparks", "--show", "commands")
    assert said in error
