"""Processes of this machine: which of a family died first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overspan.launchers.base import Death
from overspan.launchers.local import LocalLauncher
from overspan.schema.process import ProcessSpec
from support.plans import plan_on, run_in

# A parent with a thread and much memory: killed, it ends long after its child got its own signal (PDEATHSIG).
FAMILY = """
import ctypes, os, signal, sys, threading, time
memory = bytearray(1_500_000_000)
memory[:: 4096] = b"x" * len(memory[:: 4096])
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    memory = None
    os.execv(sys.executable, ["VLLM::EngineCore", "-c", "import time; time.sleep(60)"])
print("child", child, flush=True)
os.waitpid(child, 0)
time.sleep(0.1)
"""


@pytest.mark.parametrize(("victim", "named"), [("parent", "api (pid"), ("child", "VLLM::EngineCore")])
def test_the_first_death_is_told_whichever_end_the_kernel_tells_first(tmp_path: Path, victim: str, named: str) -> None:
    run = run_in(tmp_path)
    launcher = LocalLauncher(plan_on(), run)
    argv = [sys.executable, "-c", FAMILY]
    launcher.start(ProcessSpec(name="api", host="here", argv=argv, vital_titles=["VLLM::*"]), {})
    log = run.log("api")
    try:
        while not log.read_text().endswith("\n"):
            assert launcher.wait(0.1) == []
        time.sleep(0.6)
        assert launcher.wait(0.1) == []  # by now the child is known
        child = int(log.read_text().split()[1])
        os.kill(child if victim == "child" else launcher.members()[0].pid or 0, signal.SIGKILL)
        deaths: list[Death] = []
        while not deaths:
            deaths = launcher.wait(1.0)
        assert deaths[0].what.startswith(named)
    finally:
        assert launcher.end(0.0) == []


WORKER = """
import os, time
if not os.fork():
    time.sleep(2)
    os._exit(0)
print("worker", os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = "import os, sys; os.fork() or os.execv(sys.executable, ['VLLM::Worker', '-c', sys.argv[1]]); os.wait()"


def test_a_fork_that_still_bears_its_parents_title_is_no_worker(tmp_path: Path) -> None:
    """An engine forks to run `lscpu` or a compiler; on a busy machine the fork is seen before it becomes that."""
    run = run_in(tmp_path)
    launcher = LocalLauncher(plan_on(), run)
    argv = [sys.executable, "-c", PARENT, WORKER]
    launcher.start(ProcessSpec(name="api", host="here", argv=argv, vital_titles=["VLLM::*"]), {})
    log = run.log("api")
    try:
        while not log.read_text().endswith("\n"):
            assert launcher.wait(0.1) == []
        assert launcher.wait(4.0) == []  # the fork has come and gone
        os.kill(int(log.read_text().split()[1]), signal.SIGKILL)
        (death,) = launcher.wait(10.0)
        assert death.what.startswith("VLLM::Worker")
    finally:
        assert launcher.end(0.0) == []


SUPERVISOR = """
import sys
from pathlib import Path
from overspan.launchers import proc
from overspan.launchers.local import LocalLauncher
from overspan.schema.process import ProcessSpec
from support.plans import plan_on, run_in
from support.waiting import until
proc.become_subreaper()
run = run_in(Path(sys.argv[1]))
log = run.log("api")
launcher = LocalLauncher(plan_on(), run)
launcher.start(ProcessSpec(name="api", host="here", argv=[sys.executable, "-c", sys.argv[2]]), {})
until(lambda: log.read_text().endswith("\\n"), "its first word")
assert Path(log.read_text().strip()).exists()
assert launcher.end(0.0) == []
print(Path(log.read_text().split()[0]).exists())
"""
LEAVING = """
import signal
from multiprocessing import shared_memory
print("/dev/shm/" + shared_memory.SharedMemory(create=True, size=4096).name, flush=True)
signal.pause()
"""
STUBBORN = """
import signal, subprocess, sys
orders = "import time\\nif 1: time.sleep(60)\\nfrom multiprocessing.resource_tracker import main"
print(f"/proc/{subprocess.Popen([sys.executable, '-c', orders], start_new_session=True).pid}", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("program", [LEAVING, STUBBORN], ids=["its shared memory", "a tracker that does not end"])
def test_a_family_that_is_killed_at_once_leaves_nothing(tmp_path: Path, program: str) -> None:
    """Python's resource tracker alone unlinks the shared memory of the killed, so it ends after them."""
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), program]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=paths)
    assert (done.stdout, done.stderr) == ("False\n", "")
