"""`overspan doctor --preflight` from outside: what it prints and its exit codes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspan.cli.doctor import doctor
from overspan.schema.errors import InputError

# The command's own exit code is what it returns; `standalone_mode=False` hands it on, as overspan.cli.main does.


def run(*argv: str) -> tuple[int, str]:
    done = CliRunner().invoke(doctor, argv, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.stdout


@pytest.mark.real
def test_a_taken_port_on_this_machine() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out = run("--preflight", "smollm2-135m", "--set", f"port={port}", "--json")
    (finding,) = [one for one in json.loads(out) if one["status"] == "failed" and one["rule"] != "preflight.engine"]
    assert (code, finding["rule"]) == (2, "preflight.port")
    assert finding["evidence"]["command"] == ["ss", "-Hltnp"] and f"api port {port}" in finding["cause"]
    assert {one["rule"].partition(".")[2] for one in json.loads(out)} == {"port", "memory", "disk", "engine"}


@pytest.mark.real
def test_an_unreachable_host(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it meanwhile
        file = tmp_path / "one.yaml"
        ssh = {"address": "127.0.0.1", "port": closed.getsockname()[1]}
        host = {"name": "far", "cores": 1, "memory_bytes": 8 * 2**30, "ssh": ssh}
        file.write_text(json.dumps({"name": "one", "launcher": "local", "device": "cpu", "hosts": [host]}))
        code, out = run("--preflight", "smollm2-135m", "--on", str(file))
    assert code == 4
    assert "error     far: the host answers over ssh [preflight.ssh]" in out and "Connection refused" in out
    assert "  fix: ssh -p" in out and "fix: ssh" in out
    (silent,) = [line for line in out.splitlines() if line.startswith("unknown   far: not asked: far (127.0.0.1)")]
    assert all(f"preflight.{name}" in silent for name in ("host_key", "port", "memory", "disk")), (
        "one line, no rule lost"
    )


def test_preflight_goes_with_no_run() -> None:
    for argv in (["--preflight", "smollm2-135m", "some-run"], ["--on", "laptop"]):
        with pytest.raises(InputError, match="preflight"):
            run(*argv)
