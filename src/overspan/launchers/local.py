"""Processes on this machine. The caller's process owns them: it is their parent, and their subreaper."""

from __future__ import annotations

import contextlib
import fnmatch
import getpass
import math
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Final

import psutil
from pydantic import TypeAdapter, ValidationError

from overspan.engines.base import FOLDER
from overspan.launchers import proc
from overspan.launchers.base import LAST_LINES, Death, Launcher, Member, require_secrets, with_path
from overspan.launchers.tail import last_lines
from overspan.schema.errors import OverspanError, RunDamaged
from overspan.schema.launcher_traits import BUILT_IN
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import Secret, is_secret
from overspan.store import run_temporary
from overspan.store.files import problem_of
from overspan.store.locks import Say
from overspan.store.run_folder import SUPERVISOR, RunFolder
from overspan.transport import local
from overspan.transport.base import Transport

_FAMILY_REFRESH_S = 0.5
"""How often new children are looked for; a known one's death is noticed at once, through its pidfd."""

_ENDING_S = 10.0
"""How long a process that is ending is waited for: it gives gigabytes of memory back first."""


@dataclass
class _Started:
    spec: ProcessSpec
    child: subprocess.Popen[bytes]
    log: Path
    vital: dict[int, str] = field(default_factory=dict)
    """Titles of the children that must live, by process id."""
    dead: bool = False


class LocalLauncher(Launcher):
    """See `Launcher`. It must start and watch in one thread: the kernel ties a child's fate to that thread."""

    traits = BUILT_IN["local"]
    asks_hosts = True

    @property
    def asked_checks(self) -> frozenset[str]:
        """See `Launcher.asked_checks`: what is cheap to ask and nothing else of `up` looks at.

        The engine, the model's files and the endpoint's port are looked at on the way; the memory of a CPU is the
        engine's to judge, as what is free there changes by the second.
        """
        return frozenset({"preflight.port"} | ({"preflight.gpu", "preflight.memory"} if self._on_gpus else set()))

    @property
    def _on_gpus(self) -> bool:
        return any(placement.gpus for placement in self.plan.placements)

    def __init__(
        self, plan: Plan, run: RunFolder | None = None, transports: Mapping[str, Transport] | None = None
    ) -> None:
        super().__init__(plan, run, transports)
        self._started: dict[str, _Started] = {}
        self._watch = select.poll()
        self._pid_of_fd: dict[int, int] = {}
        self._refreshed = 0.0

    def placed(self, specs: Sequence[ProcessSpec]) -> list[ProcessSpec]:
        """See `Launcher.placed`: the run's folder is the same in every process."""
        here = str(self.run.path)
        return [
            spec.with_(
                argv=[word.replace(FOLDER, here) for word in spec.argv],
                env={name: value.replace(FOLDER, here) for name, value in spec.env.items()},
            )
            for spec in specs
        ]

    def with_packages(self, folder: Path, specs: Sequence[ProcessSpec], say: Say) -> list[ProcessSpec] | str:
        """See `Launcher.with_packages`."""
        return [with_path(spec, str(folder)) for spec in specs]

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        """See `Launcher.start_all`."""
        for spec in specs:
            require_secrets([spec], secrets)
            self._start(spec, secrets)

    def _start(self, spec: ProcessSpec, secrets: Mapping[str, Secret]) -> None:
        log = self.run.log(spec.name)
        own = {name: secrets[name].get_secret_value() for name in spec.secrets}
        try:
            environment = {**inherited(spec.env, run_temporary.make(self.run)), **spec.env, **own}
            child = local.spawn(spec.argv, log=log, env=environment, cwd=spec.cwd, preexec=local.die_with_parent)
        except OSError as error:
            raise OverspanError(f"process {spec.name} could not start on {spec.host}: {error}") from None
        proc.mine(child.pid)
        self._started[spec.name] = _Started(spec, child, log)
        self._watch_pid(child.pid)

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._refresh()
            left = max(0.0, deadline - time.monotonic())
            ready = self._with_parents([fd for fd, _ in self._watch.poll(min(left, _FAMILY_REFRESH_S) * 1000)])
            deaths = [death for fd in sorted(ready, key=self._turn) if (death := self._death_of(fd)) is not None]
            proc.reap()
            if deaths or left == 0.0:
                return deaths

    def _watch_pid(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            self._watch.register(fd, select.POLLIN)
            self._pid_of_fd[fd] = pid

    def _refresh(self) -> None:
        """Look for vital children that have appeared."""
        if time.monotonic() - self._refreshed < _FAMILY_REFRESH_S:
            return
        self._refreshed = time.monotonic()
        for one in self._started.values():
            if one.dead or not one.spec.vital_titles:
                continue
            for process in proc.descendants(one.child.pid):
                name = proc.title(process)
                known = process.pid in one.vital
                is_vital = any(fnmatch.fnmatchcase(name, pattern) for pattern in one.spec.vital_titles)
                if is_vital and (known or not proc.is_unnamed_fork(process, name)):
                    one.vital[process.pid] = name
                    if not known:
                        self._watch_pid(process.pid)

    def _with_parents(self, ready: list[int]) -> list[int]:
        """A killed process's children get their signal before its own end is told: a parent that is ending is waited
        for, and `_turn` says who comes first."""
        dead = {self._pid_of_fd[fd] for fd in ready}
        parents_of_dead = [one.child.pid for one in self._started.values() if not one.dead and dead & one.vital.keys()]
        for fd, pid in self._pid_of_fd.items():
            if pid in parents_of_dead and pid not in dead and proc.is_ending(pid):
                parent = select.poll()
                parent.register(fd, select.POLLIN)
                ready += [fd for fd, _ in parent.poll(_ENDING_S * 1000)]
        return ready

    def _turn(self, fd: int) -> int:
        """The order of deaths that are seen at once. A process killed by a signal takes its children with it; one that
        ended by itself did so after a child's death."""
        started = next((one for one in self._started.values() if one.child.pid == self._pid_of_fd[fd]), None)
        if started is None:
            return 1
        return 0 if started.child.wait() < 0 else 2

    def _death_of(self, fd: int) -> Death | None:
        """The death that a readable pidfd tells, once for each started process."""
        pid = self._pid_of_fd.pop(fd)
        self._watch.unregister(fd)
        os.close(fd)
        for one in self._started.values():
            itself = pid == one.child.pid
            if one.dead or not (itself or pid in one.vital):
                continue
            one.dead = True
            return Death(
                process=one.spec.name,
                host=one.spec.host,
                ranks=one.spec.ranks,
                what=f"{one.spec.name if itself else one.vital[pid]} (pid {pid})",
                code=one.child.wait() if itself else None,
                lines=last_lines(one.log, LAST_LINES, pid=None if itself else pid),
            )
        return None

    def members(self) -> list[Member]:
        """See `Launcher.members`. Children that have appeared are watched from now on."""
        self._refreshed = 0.0
        self._refresh()
        return [
            _now(one.spec.name, one.spec.host, one.child.pid, None if one.dead else proc.living(one.child.pid))
            for one in self._started.values()
        ]

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """See `Launcher.look`: the processes that the supervisor recorded."""
        note = self.run.note(SUPERVISOR)
        try:
            recorded = TypeAdapter(list[Member]).validate_python(note.get("members", []))
        except ValidationError as error:
            raise RunDamaged(f"run {self.run.id}: {SUPERVISOR} is damaged: {problem_of(error, 'members')}") from None
        found = [(one, proc.find(one.pid or 0, one.started_at or 0.0)) for one in recorded]
        return [_now(one.process, one.host, one.pid, process) for one, process in found], {}

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`."""
        for one in self._started.values():
            if one.child.poll() is None:
                one.child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(one.child.poll() is None for one in self._started.values()):
            time.sleep(0.05)
            proc.reap()
        left = proc.kill_all(proc.descendants(os.getpid()) for _ in repeat(None))
        for one in self._started.values():
            one.child.wait()
        if self._started and not left:
            run_temporary.forget(self.run)
        return [f"pid {process.pid} ({proc.title(process)}) does not end" for process in left]


_NOT_HANDED_ON = re.compile(r"PYTHON(PATH|HOME|STARTUP)|LD_(PRELOAD|AUDIT)|(AWS|SSH|GPG)_\w+|KUBECONFIG|NETRC")
_HUB: Final = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""For weights that the engine itself fetches. Source: huggingface_hub, environment variables."""


def inherited(asked: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """What an engine gets of this shell's environment: no secret, and nothing that changes which code it runs. A recipe
    (`env`, `secrets`) or an inventory (`env`) can name what is left out.

    Args:
        asked: what the plan sets for the process.
        temporary: the run's folder for temporary files. Compiled code that PyTorch keeps stays where it was.
    """
    hub = _HUB if asked.get("HF_HUB_OFFLINE") != "1" else frozenset()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in hub or not (is_secret(name) or _NOT_HANDED_ON.fullmatch(name))
    }
    try:
        compiled = {"TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"}
    except (KeyError, OSError):  # an account without a name
        compiled = {}
    # The first variable must be one that the engine never sets: setproctitle finds the arguments in front of it, and
    # without titles no death of an engine's core or worker is seen (setproctitle 1.3.8, spt_setup.c).
    first = {"TMPDIR": str(temporary)}
    return {**first, **compiled, **kept, **first}


def _now(name: str, host: str, pid: int | None, process: psutil.Process | None) -> Member:
    """A process of the run as it is; None for one that is dead."""
    started = math.inf if process is None else proc.born(process)
    if process is None or started == math.inf:
        return Member(process=name, host=host, health="dead", pid=pid)
    family = [process, *proc.descendants(process.pid)]
    return Member(
        process=name,
        host=host,
        health="running",
        pid=pid,
        memory_bytes=sum(proc.resident_bytes(each) for each in family),
        started_at=started,
    )


LAUNCHER = LocalLauncher
