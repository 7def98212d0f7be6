"""The guardian starts the supervisor, waits for it, and ends whatever the supervisor leaves behind.

Each of the two ends everything when the other is killed: the kernel tells the supervisor that its parent died
(PDEATHSIG), and the guardian inherits the supervisor's orphans (subreaper). So no single `kill -9` leaves an orphan.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from itertools import repeat
from pathlib import Path

import psutil

from overspan.launchers import proc
from overspan.runs.supervising import PARENT_DIED
from overspan.schema.errors import OverspanError
from overspan.schema.units import count
from overspan.store import run_secrets, run_temporary
from overspan.store.run_folder import RunFolder
from overspan.transport import local


def main(run: RunFolder) -> None:
    """Guard one run to its end."""
    proc.become_subreaper()
    supervisor = os.fork()
    if supervisor == 0:
        _supervise(run, os.getppid())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(supervisor, received))
    os.chdir(run.path)
    _, status = os.waitpid(supervisor, 0)
    code = os.waitstatus_to_exitcode(status)
    left = proc.descendants(os.getpid())
    proc.kill_all(proc.descendants(os.getpid()) for _ in repeat(None))
    run_secrets.forget(run)
    run_temporary.forget(run)
    if not run.ended:
        remote = end_elsewhere(run)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        run.append(
            f"the supervisor {how}; its {count(len(left), 'process')} here {'was' if len(left) == 1 else 'were'} ended",
            state="failed",
            process="supervisor",
            lines=[],
            left=remote,
        )


def command(run: RunFolder) -> list[str]:
    """What starts the guardian of a run."""
    return [sys.executable, "-m", "overspan.runs.guardian", str(run.path)]


def find(run: RunFolder) -> psutil.Process | None:
    """The living guardian of a run, by its command line; the supervisor, which bears the same, was forked later."""
    own = [process for process in psutil.process_iter() if _guards(proc.arguments(process), run)]
    return min(filter(proc.is_alive, own), key=proc.born, default=None)


def _guards(words: list[str], run: RunFolder) -> bool:
    return words[1:-1] == command(run)[1:-1] and Path(words[-1]).resolve() == run.path.resolve()


def end_elsewhere(run: RunFolder) -> list[str]:
    """End what a launcher holds outside this process's family, which is where containers are.

    Returns:
        What could not be ended and why.
    """
    from overspan.launchers.registry import launcher_of

    try:
        with launcher_of(run.plan(), run) as launcher:
            return launcher.end_elsewhere()
    except OverspanError as error:  # the run is damaged, or its launcher is not installed any more
        return [error.in_one_line]


def _supervise(run: RunFolder, guardian: int) -> None:
    code = 70  # EX_SOFTWARE of sysexits.h, unless the supervisor comes to its own end
    try:
        proc.become_subreaper()
        local.die_with_parent(PARENT_DIED)
        from overspan.runs.supervisor import supervise

        supervise(run, guardian)
        code = 0
    except BaseException:  # noqa: BLE001 - this is the end of the process: the log gets what happened
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])))
