"""Bad input: one clear error that names the field and what is allowed, exit code 2, nothing started."""

import json
import socket
from pathlib import Path

import pytest

from cli.conftest import Refused, Shell
from support.fake_env import make_recipe


def test_unknown_command(refused: Refused) -> None:
    assert "did you mean status" in refused("statsu")


def test_unknown_recipe(refused: Refused) -> None:
    assert "did you mean smollm2-135m" in refused("up", "smollm2-135")


def test_unknown_inventory(refused: Refused, shell: Shell) -> None:
    assert "did you mean two-sparks" in refused("up", str(shell.recipe), "--on", "two-spark")


def test_malformed_yaml_names_line_and_column(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: tiny\nmodel: [unclosed\nport: 1\n")
    error = refused("up", str(file))
    assert "line 3, column" in error
    assert str(file) in error


def test_unknown_key_names_its_line(refused: Refused, shell: Shell, tmp_path: Path) -> None:
    file = make_recipe(tmp_path / "bad.yaml", shell.home / "model", "pport: 1\n")
    error = refused("up", str(file))
    assert "line 8" in error
    assert "did you mean port" in error


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gpu_memory_utilisation=0.5", "did you mean gpu_memory_utilization?"),
        ("gpu_memory_utilization=9.5", "0.1 to 1"),
        ("max_model_len=many", "max_model_len"),
        ("port=70000", "65535"),
        ("port=eight", "port"),
        ("layout=pp2xx", "pp2xx"),
        ("tp=0", "tp"),
        ("port", "NAME=VALUE"),
        ("engine=vlm", "vllm"),
    ],
)
def test_wrong_settings(refused: Refused, shell: Shell, setting: str, says: str) -> None:
    assert says in refused("up", str(shell.recipe), "--set", setting)


def test_port_taken_names_the_holder(refused: Refused, shell: Shell) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        error = refused("up", str(shell.recipe), "--set", f"port={port}")
    assert f"port {port}" in error
    assert "pid " in error


def test_engine_not_installed_gives_the_command(refused: Refused, shell: Shell, tmp_path: Path) -> None:
    error = refused("up", str(shell.recipe), OVERSPAN_CACHE=str(tmp_path / "empty"))
    assert "overspan engine install cpu" in error


def test_a_folder_that_is_no_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused("up", str(tmp_path / "empty"))


def test_a_truncated_model(refused: Refused, shell: Shell) -> None:
    (shell.home / "model" / "model.safetensors").write_bytes(b"\xff" * 16)
    assert "model.safetensors" in refused("up", str(shell.recipe))


def test_a_damaged_run_folder(shell: Shell) -> None:
    shell.run("up", str(shell.recipe))
    shell.run("stop")
    run = shell.runs()[0]
    (run.path / "plan.json").write_text('{"recipe"')
    done = shell.run("status", run.id)
    assert done.returncode == 2
    assert "plan.json is damaged" in done.stderr
    assert run.id in shell.run("list").stdout


def test_errors_as_json_are_one_document(shell: Shell) -> None:
    done = shell.run("up", "nothing-like-it", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "UnknownName"


def test_unknown_run(refused: Refused, shell: Shell) -> None:
    shell.run("up", str(shell.recipe))
    shell.run("stop")
    assert "did you mean tiny" in refused("status", "tinny")


def test_a_model_without_a_tokenizer(refused: Refused, shell: Shell) -> None:
    for file in (shell.home / "model").glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer (none of tokenizer.json" in refused("up", str(shell.recipe))


@pytest.mark.parametrize(
    ("layouts", "says"),
    [("tp2,pp2xx", "layout 'pp2xx' does not parse at 'xx'"), ("", "names no degree"), ("tp2tp4", "names tp twice")],
)
def test_layouts_to_prove_that_are_none(refused: Refused, layouts: str, says: str) -> None:
    assert says in refused("prove", "smollm2-135m", "--layouts", layouts)


LONG = "n" * 5000


@pytest.mark.parametrize(
    "words",
    [
        *(["plan", LONG], ["up", LONG], ["predict", LONG], ["twin", LONG, "--out", "x"], ["sweep", LONG]),
        *(["recipe", "show", LONG], ["status", LONG], ["report", LONG], ["compare", LONG, "b"], ["stop", LONG]),
        *(["plan", "smollm2-135m", "--on", LONG], ["plan", "smollm2-135m", "--hardware", LONG]),
        *(["export", LONG, "--out", "x.csv"], ["doctor", "--log", LONG], ["up", "smollm2-135m", "--name", LONG]),
        *(["logs", LONG], ["verify", LONG], ["chat", LONG, "-p", "x"], ["bench", LONG]),
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_a_name_that_no_file_can_have(refused: Refused, words: list[str]) -> None:
    """One error, and not the error of the system's call as a traceback."""
    error = refused(*words)
    assert "nnn" in error


def test_a_name_that_no_file_can_have_is_not_repeated_whole_and_its_option_is_named(refused: Refused) -> None:
    error = refused("plan", "smollm2-135m", "--on", LONG)
    assert "error: --on 'nnnn" in error
    assert "5,000 characters" in error
    assert len(error) < 400
