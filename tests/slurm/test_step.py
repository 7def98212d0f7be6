"""What a step runs its process with: no shared memory stays when Slurm kills what is left of the step."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from overspan.launchers import proc, slurm_commands
from overspan.schema.process import ProcessSpec
from support.waiting import until

ENGINE = """
import os, signal, sys
from multiprocessing import shared_memory
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "draining" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
memory = shared_memory.SharedMemory(create=True, size=4096)
if os.fork() == 0:
    while True:
        signal.pause()
print(os.getpid(), "/dev/shm/" + memory.name, flush=True)
while True:
    signal.pause()
"""


class Step:
    """A step as slurmstepd has it: the task leads a group, and at its end all that is left is killed at once."""

    def __init__(self, folder: Path, shell: str, *words: str) -> None:
        spec = ProcessSpec(name="api", host="a", argv=[sys.executable, "-c", ENGINE, *words])
        argv = slurm_commands.step(spec, "run", None)
        argv = [slurm_commands.step_script() if word == "{step.sh}" else word for word in argv[argv.index("--") + 1 :]]
        self.log = folder / "log"
        with self.log.open("wb") as out:
            environment = {**os.environ, "OVERSPAN_PATIENCE_S": "1"}
            self.task = subprocess.Popen([shell, *argv[1:]], stdout=out, env=environment, start_new_session=True)
        until(lambda: self.log.read_text().endswith("\n"), "the process")
        pid, memory = self.log.read_text().split()
        self.pid, self.memory = int(pid), Path(memory)
        assert self.memory.exists()

    def end(self) -> int:
        """Slurm's part; the step's exit code."""
        code = self.task.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(self.task.pid, signal.SIGKILL)
        return code

    def signal(self, *signals: int) -> None:
        for each in signals:
            os.killpg(self.task.pid, each)


@contextmanager
def step(folder: Path, shell: str, words: Sequence[str]) -> Iterator[Step]:
    made = Step(folder, shell, *words)
    try:
        yield made
    finally:
        for process in [*proc.in_session(made.task.pid), *proc.descendants(made.task.pid)]:
            process.kill()
        made.memory.unlink(missing_ok=True)


shells = pytest.mark.parametrize("shell", ["sh", "bash"])


@shells
def test_a_killed_process_leaves_no_shared_memory(tmp_path: Path, shell: str) -> None:
    with step(tmp_path, shell, []) as made:
        family = proc.descendants(made.task.pid)
        os.kill(made.pid, signal.SIGKILL)
        assert made.end() == 128 + signal.SIGKILL
        assert not made.memory.exists()
        until(lambda: not [each for each in family if proc.is_alive(each)], "the end of the family")


@shells
def test_a_process_that_does_not_end_in_time_is_ended_before_slurm_kills_all(tmp_path: Path, shell: str) -> None:
    with step(tmp_path, shell, ["stubborn"]) as made:
        made.signal(signal.SIGCONT, signal.SIGTERM)
        assert made.end() == 128 + signal.SIGKILL
        assert not made.memory.exists()


@shells
def test_a_drain_takes_its_time_and_the_code_is_the_processs_own(tmp_path: Path, shell: str) -> None:
    with step(tmp_path, shell, ["draining"]) as made:
        made.signal(signal.SIGCONT)  # a job that was suspended goes on
        with pytest.raises(subprocess.TimeoutExpired):
            made.task.wait(2)
        made.signal(signal.SIGTERM)
        until(lambda: "asked" in made.log.read_text(), "the signal")
        with pytest.raises(subprocess.TimeoutExpired):
            made.task.wait(2)
        os.kill(made.pid, signal.SIGUSR1)
        assert made.end() == 7
        assert not made.memory.exists()
