"""This machine."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

from overspan.schema.errors import OverspanError
from overspan.transport.base import Completed

# Source: linux/prctl.h
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: object) -> None:
    """Change how the kernel treats this process (prctl(2)).

    Raises:
        OSError: the kernel refuses.
    """
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Get `sig` when the thread that started this process ends."""
    prctl(_PR_SET_PDEATHSIG, sig)


class Local:
    """Runs commands on this machine."""

    def __init__(self, host: str = "localhost") -> None:
        self.host = host

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
        exact: bool = False,
    ) -> Completed:
        """See `Transport.run`."""
        started = time.monotonic()
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, **env} if env is not None else None,
                cwd=cwd,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise OverspanError(f"{argv[0]} is not installed on {self.host}") from None
        except PermissionError as error:
            raise OverspanError(f"{argv[0]} could not be started on {self.host}", quote=str(error)) from None
        except subprocess.TimeoutExpired:
            raise OverspanError(f"{argv[0]} on {self.host} did not end within {timeout_s:g} s") from None
        return Completed.of(self.host, argv, done, time.monotonic() - started, exact=exact)

    def lines(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[str]:
        """See `Transport.lines`."""
        return lines_of(argv, env=env, cwd=cwd)

    def command(self, argv: Sequence[str]) -> list[str]:
        """See `Pipeable.command`."""
        return list(argv)

    def connect(self) -> None:
        """See `Pipeable.connect`: this machine answers."""

    def failure(self, name: str, code: int, said: str | None) -> OverspanError:
        """See `Pipeable.failure`."""
        return OverspanError(f"{name} failed on {self.host}: it ended with {code}", quote=said)

    def close(self) -> None:
        """See `Transport.close`: there is nothing to end."""


def lines_of(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None, tied: bool = False
) -> Generator[str, None, None]:
    """Run a command here and give each line of its output (both streams) as it comes.

    When the iterator is closed before its end, or the caller is interrupted, the command's whole process group is
    ended: nothing goes on behind the caller's back. With `tied`, the kernel ends the command even when the
    caller, or its thread that read first, is killed outright.

    Raises:
        OverspanError: the command ended with an error; quotes its last line.
    """
    last = ""
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env} if env is not None else None,
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_die_with(os.getpid()) if tied else None,  # noqa: PLW1509 - the callers have one thread
    )
    try:
        for line in process.stdout or ():
            last = line.rstrip("\n") if line.strip() else last
            yield line.rstrip("\n")
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0:
        raise OverspanError(f"{argv[0]} ended with {process.returncode}", quote=last)


def _die_with(parent: int) -> Callable[[], None]:
    """What a child runs first, so that the kernel kills it when its parent dies."""

    def tie() -> None:
        die_with_parent()
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: str | None = None,
    new_session: bool = False,
    keep_open: Sequence[int] = (),
    preexec: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process here that writes both its streams to the end of a file. `env` is its whole environment.

    `keep_open` are descriptors that it inherits.
    """
    with log.open("ab", buffering=0) as sink:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=new_session,
            pass_fds=tuple(keep_open),
            preexec_fn=preexec,  # noqa: PLW1509 - the callers have one thread
        )
