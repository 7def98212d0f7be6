"""No process of an engine outlives its parent, whichever way and in whichever thread it was started."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import until

TREE = """
import multiprocessing, os, sys, threading, time

if sys.argv[4:] == ["early"]:  # as vLLM does on a GPU: a spawned child imports it early
    from overspan_vllm.die_with_parent import arrange
    arrange()

def rest(pids, below):
    from overspan_vllm.die_with_parent import arrange
    arrange()  # as the entry points of vLLM do in every process
    if below:
        start(pids, below[0], False, below[1:])
    pids.put(os.getpid())
    time.sleep(600)

def start(pids, method, thread, below):
    child = multiprocessing.get_context(method).Process(target=rest, args=(pids, below))
    if thread:
        starter = threading.Thread(target=child.start)
        starter.start()
        starter.join()
    else:
        child.start()

if __name__ == "__main__":
    from overspan_vllm.die_with_parent import arrange
    arrange()
    pids = multiprocessing.get_context("spawn").Queue()
    start(pids, sys.argv[1], sys.argv[2] == "thread", [sys.argv[3]])
    time.sleep(0.3)  # the thread that started it is over
    print(pids.get(timeout=60), pids.get(timeout=60), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("thread", ["main", "thread"])
@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize(("core", "worker"), [("spawn", "spawn"), ("fork", "fork"), ("forkserver", "spawn")])
def test_a_killed_parent_takes_all_below_it_along(
    site: Path, tmp_path: Path, core: str, worker: str, thread: str, when: str
) -> None:
    file = tmp_path / "tree.py"
    file.write_text(TREE)
    environment = {**os.environ, "PYTHONPATH": str(site), "OVERSPAN_DIE_WITH_PARENT": "1"}
    command = [sys.executable, str(file), core, thread, worker, when]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as api:
        assert api.stdout is not None
        below = [psutil.Process(int(pid)) for pid in api.stdout.readline().split()]
        assert len(below) == 2
        assert all(each.is_running() for each in below), "one died with the thread that started it"
        api.kill()
    try:
        until(lambda: not any(_is_alive(each) for each in below), "the end of all", timeout_s=30)
    finally:
        for each in filter(_is_alive, below):
            each.kill()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
