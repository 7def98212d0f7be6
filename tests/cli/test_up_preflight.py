"""`up` on this machine asks what preflight asks, as far as it is cheap and nothing else looks at it."""

import json
import os
from pathlib import Path

import pytest

from cli.conftest import Shell

TOOL = """#!/bin/sh
echo "{name} $*" >> {log}
case "$*" in
  *query-gpu=index,name*) echo "0, NVIDIA H200, 143771, 580.159.04, 9.0" ;;
  *query-gpu=index,util*) echo "0, 0, 75.0, {used_mib}, 30" ;;
  *query-compute-apps*) echo "4242, /opt/other/bin/python, {used_mib}" ;;
esac
"""


class Machine:
    """A shell on a machine whose `nvidia-smi` and `ss` note each call."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.log = shell.home / "asked"
        self.bin = shell.home / "tools"
        self.bin.mkdir()

    def up(self, inventory: Path | None = None, used_mib: int = 4) -> tuple[int, str]:
        for name in ("nvidia-smi", "ss"):
            (self.bin / name).write_text(TOOL.format(name=name, log=self.log, used_mib=used_mib))
            (self.bin / name).chmod(0o755)
        self.log.write_text("")
        on = ["--on", str(inventory)] if inventory else []
        done = self.shell.run("up", str(self.shell.recipe), *on, PATH=f"{self.bin}:{os.environ['PATH']}")
        return done.returncode, done.stderr

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(shell: Shell) -> Machine:
    return Machine(shell)


@pytest.fixture
def h200(shell: Shell) -> Path:
    gpu = {"index": 0, "kind": "h200", "name": "NVIDIA H200", "memory_bytes": 143771 * 2**20}
    host = {"name": "localhost", "memory_bytes": 10**11, "gpus": [gpu]}
    engine = shell.home / "cache" / "engines" / ".builds" / "fake"
    made = engine / "lib" / "python3.11" / "site-packages" / "vllm-0.32.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    file = shell.home / "h200.yaml"
    file.write_text(json.dumps({"hosts": [host], "engine_environment": str(engine)}))
    return file


def test_memory_of_a_gpu_that_another_process_holds(machine: Machine, h200: Path) -> None:
    code, said = machine.up(h200, used_mib=102400)
    assert code == 2
    assert "vLLM claims 0.92 of GPU 0 of localhost = 129.2 GiB, and 40.4 GiB is free" in said
    assert "/opt/other/bin/python (pid 4242, 100.0 GiB)" in said
    assert "--set gpu_memory_utilization=0.28" in said
    assert machine.shell.runs() == [], "nothing was started, and nothing is left"
    assert len(machine.asked) == len(set(machine.asked)) == 3, "which GPUs, how much is used, and by whom: each once"


def test_what_was_found_stays_with_the_run(machine: Machine, h200: Path) -> None:
    code, said = machine.up(h200)
    assert code == 0, said
    (run,) = machine.shell.runs()
    findings = json.loads((run.path / "preflight.json").read_text())
    assert [(one["rule"], one["status"]) for one in findings] == [
        ("preflight.gpu", "passed"),
        ("preflight.memory", "passed"),
    ]


def test_a_cpu_is_asked_nothing_that_up_finds_out_anyway(machine: Machine) -> None:
    code, said = machine.up()
    assert code == 0, said
    assert machine.asked == []
