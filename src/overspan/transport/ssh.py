"""Another machine, over the system's `ssh`.

One connection a host, held open by ssh's own multiplexing in a private folder, so that a command costs one round trip.
Opening the connection is a step of its own: whatever ssh says there is about the connection, and whatever a session
writes later is the command's own.

sshd hands what it receives to the login shell of the account. `Remote.command` is the one place where arguments become
text for a shell: every one is quoted by `shlex.join`, and the first word is always `exec`, so that no argument can be
read as an assignment, a keyword or an alias. Login shells are taken to be POSIX (bash, zsh, dash, ksh).
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from overspan.schema.defaults import LOOPBACK
from overspan.schema.errors import HostKeyRejected, HostUnreachable, InputError, OverspanError
from overspan.schema.inventory import Ssh
from overspan.transport.base import Completed
from overspan.transport.local import lines_of

CONNECT_TIMEOUT_S: Final = 10
"""For the TCP connection and the key exchange; a host on a LAN answers in well under one second."""

ALIVE_INTERVAL_S: Final = 5
ALIVE_COUNT: Final = 3
"""A host that answers none of three probes, 5 s apart, is unreachable."""

IDLE_S: Final = 60
"""A connection that nobody uses ends by itself, so that one left by a killed command does not stay."""

LOST: Final = 255
"""What `ssh` exits with when the connection, not the command, failed. Source: ssh(1), EXIT STATUS."""

SOCKET_PATH_LIMIT: Final = 80
"""Bytes of the control socket's path: sun_path holds 108, and ssh adds a dot and 16 characters while it binds."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Remote:
    """Runs commands on another machine. Safe to use from several threads; `close` ends the connection."""

    def __init__(self, host: str, ssh: Ssh) -> None:
        self.host = host
        self.ssh = ssh
        self._lock = threading.RLock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._forwards: list[str] = []

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        """See `Transport.run`. A time limit is kept on the far side too: what ran past it is ended there."""
        command = self.command(argv, env=env, cwd=cwd, timeout_s=timeout_s)
        self.connect()
        started = time.monotonic()
        patience_s = None if timeout_s is None else timeout_s + ALIVE_INTERVAL_S
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                timeout=patience_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HostUnreachable(
                f"{self.host} stopped answering while it ran {argv[0]}", next=self._try_by_hand()
            ) from None
        completed = Completed.of(self.host, argv, done, time.monotonic() - started, exact=exact)
        self._raise_if_not_run(completed, timeout_s)
        return completed

    def lines(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[str]:
        """See `Transport.lines`."""
        command = self.command(argv, env=env, cwd=cwd)
        self.connect()
        try:
            yield from lines_of(command)
        except OverspanError as error:
            raise self.failure(argv[0], LOST, error.quote) from None

    def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
    ) -> list[str]:
        """The command to start here so that `argv` runs there, each argument as it is.

        `env` can be seen by every user of that host (ps): a secret travels over standard input, never here.

        Raises:
            InputError: an argument that no command line can carry.
        """
        there = ["--", self.ssh.address, remote_text(argv, env, cwd, timeout_s)]
        return [*self._client(), "-o", "ControlMaster=no", *there]

    def failure(self, name: str, code: int, said: str | None) -> OverspanError:
        """What a code of `ssh` means: the connection was lost, or the command failed there."""
        if code == LOST and not self._alive():
            return self._lost(name, said)
        return OverspanError(f"{name} failed on {self.host}", quote=said)

    def connect(self) -> None:
        """Open the connection, unless it is open.

        Raises:
            HostUnreachable: with ssh's own line, and the command to run next.
        """
        with self._lock:
            if self._socket().exists():
                return
            with tempfile.TemporaryFile() as said:
                code = self._open(said.fileno())
                said.seek(0)
                text = said.read().decode(errors="replace")
            if code != 0:
                raise explain(self.host, self.ssh, text)
            for tunnel in self._forwards:
                self._control("forward", "-L", tunnel)

    def forward(self, port_here: int, address: str, port_there: int) -> None:
        """Make a port of this machine's loopback lead to an address that the host reaches, also after a reconnection.

        Raises:
            HostUnreachable: the host does not answer.
            OverspanError: the tunnel could not be made.
        """
        there = f"[{address}]" if ":" in address else address
        tunnel = f"{LOOPBACK}:{port_here}:{there}:{port_there}"
        with self._lock:
            self.connect()
            if self._control("forward", "-L", tunnel) != 0:
                raise OverspanError(f"no tunnel from port {port_here} here to {address}:{port_there} on {self.host}")
            self._forwards.append(tunnel)

    def close(self) -> None:
        """End the connection and remove its private folder. Twice is fine."""
        with self._lock:
            if self._folder is None:
                return
            if self._socket().exists():
                self._control("exit")
            self._folder.cleanup()
            self._folder = None

    def _open(self, stderr: int) -> int:
        master = [*self._client(), "-M", "-N", "-f", "-o", f"ControlPersist={IDLE_S}", "--", self.ssh.address]
        try:
            return subprocess.run(
                master,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=CONNECT_TIMEOUT_S * 3,
                check=False,
            ).returncode
        except FileNotFoundError:
            raise OverspanError("ssh is not installed here", next="apt-get install openssh-client") from None
        except subprocess.TimeoutExpired:
            raise HostUnreachable(
                f"{self.host} ({self.ssh.address}) accepted the connection and then sent nothing",
                next=self._try_by_hand(),
            ) from None

    def _client(self) -> list[str]:
        return ["ssh", *options(self.ssh), "-S", str(self._socket())]

    def _socket(self) -> Path:
        with self._lock:
            self._folder = self._folder or _private_folder()
            folder = self._folder.name
        key = hashlib.sha256(self.ssh.model_dump_json().encode()).hexdigest()[:12]
        return Path(folder) / key

    def _control(self, order: str, *more: str) -> int:
        """Tell the connection's own process something; no other machine is asked."""
        # The first value wins: here, and here alone, a tunnel that we ask for is wanted.
        program, *options = self._client()
        asked = [program, "-o", "ClearAllForwardings=no", *options, "-O", order, *more, "--", self.ssh.address]
        try:
            done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:  # the connection's process hangs: it serves nobody any more
            return LOST
        return done.returncode

    def _alive(self) -> bool:
        with self._lock:
            if self._control("check") == 0:
                return True
            self._socket().unlink(missing_ok=True)
            return False

    def _raise_if_not_run(self, done: Completed, timeout_s: float | None) -> None:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if done.code == LOST and not self._alive():
            raise self._lost(done.argv[0], last)
        if timeout_s is not None and done.code in (124, 137) and done.seconds >= timeout_s:
            raise OverspanError(f"{done.argv[0]} on {self.host} did not end within {timeout_s:g} s")
        if done.code in (125, 126, 127) and last.startswith(("env: ", "timeout: ")):
            missing = done.code == 127 and done.argv[0] in last
            what = "is not installed" if missing else "could not be started"
            raise OverspanError(f"{done.argv[0]} {what} on {self.host}", quote=last)

    def _lost(self, name: str, last: str | None) -> HostUnreachable:
        return HostUnreachable(
            f"the connection to {self.host} ({self.ssh.address}) was lost while it ran {name}",
            quote=last or None,
            next=self._try_by_hand(),
        )

    def _try_by_hand(self) -> str:
        return by_hand(self.ssh, "true")


def remote_text(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None, timeout_s: float | None = None
) -> str:
    """What the login shell there reads: `exec`, then words that are quoted each.

    Raises:
        InputError: no command, a NUL byte, or a name that `env` would take for a variable or cannot set.
    """
    if not argv or "=" in argv[0]:
        raise InputError(f"not a command: {list(argv)!r}", next="the first item is a program, with no '=' in its name")
    for name in env or {}:
        if not _VARIABLE.fullmatch(name):
            raise InputError(f"not a name of an environment variable: {name!r}")
    words = ["timeout", "-k", "2", f"{timeout_s:g}"] if timeout_s is not None else []
    words += ["env", *(["-C", cwd] if cwd is not None else []), "--"]
    words += [f"{name}={value}" for name, value in (env or {}).items()]
    words += argv
    if any("\0" in word for word in words):
        raise InputError(f"an argument of {argv[0]!r} holds a NUL byte, which no command line can carry")
    return f"exec {shlex.join(words)}"


def options(ssh: Ssh) -> list[str]:
    """The options of every call of ssh. Given first on the command line, they win over any configuration file."""
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "VerifyHostKeyDNS": "no",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "ServerAliveInterval": str(ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "LogLevel": "ERROR",
    }
    if ssh.known_hosts is not None:
        settings |= {"UserKnownHostsFile": _path(ssh.known_hosts), "GlobalKnownHostsFile": "/dev/null"}
    arguments = ["-T"]
    if ssh.config_file is not None:
        arguments += ["-F", ssh.config_file]
    for name, value in settings.items():
        arguments += ["-o", f"{name}={value}"]
    if ssh.identity_file is not None:
        arguments += ["-i", ssh.identity_file.replace("%", "%%"), "-o", "IdentitiesOnly=yes"]
    return [*arguments, *_account(ssh)]


def _account(ssh: Ssh) -> list[str]:
    """Who logs in, and where. Port 22 also stands for "as the configuration file says"."""
    return [*(["-l", ssh.user] if ssh.user else []), *(["-p", str(ssh.port)] if ssh.port != 22 else [])]


def _path(path: str) -> str:
    """A file name as one word of ssh's configuration language, which splits at blanks and expands `%`."""
    if '"' in path or "\\" in path or not path.isprintable():
        raise InputError(
            f"ssh cannot be given this file name: {path!r}", next="rename it, without quotes or backslashes"
        )
    return '"' + path.replace("%", "%%") + '"'


def by_hand(ssh: Ssh, *command: str) -> str:
    """The command that a person pastes to see the same problem, without the options that only a program needs."""
    words = ["ssh"]
    words += ["-F", ssh.config_file] if ssh.config_file else []
    words += ["-i", ssh.identity_file] if ssh.identity_file else []
    words += ["-o", f"UserKnownHostsFile={_path(ssh.known_hosts)}"] if ssh.known_hosts else []
    return shlex.join([*words, *_account(ssh), "--", ssh.address, *command])


def explain(host: str, ssh: Ssh, said: str) -> HostUnreachable:
    """What ssh said when it could not connect, as an error that quotes it and names the next command."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" @\r")]
    last = lines[-1] if lines else None
    where = f"{host} ({ssh.address})"

    def line_with(text: str) -> str | None:
        return next((line for line in lines if text in line), None)

    if line_with("REMOTE HOST IDENTIFICATION HAS CHANGED"):
        offending = line_with("Offending") or last
        name = ssh.address if ssh.port == 22 else f"[{ssh.address}]:{ssh.port}"
        forget = ["ssh-keygen", *(["-f", ssh.known_hosts] if ssh.known_hosts else []), "-R", name]
        return HostKeyRejected(
            f"the host key of {where} is not the one that was known: either the machine was installed anew, "
            "or another machine answers in its place",
            quote=offending,
            next=f"if that is expected, forget the old key: {shlex.join(forget)}   then accept the new: {by_hand(ssh)}",
        )
    if (unknown := line_with("host key is known for")) or line_with("Host key verification failed"):
        return HostKeyRejected(
            f"the host key of {where} is not known yet",
            quote=unknown or last,
            next=f"connect once by hand and compare the fingerprint: {by_hand(ssh)}",
        )
    if denied := line_with("Permission denied"):
        return HostUnreachable(
            f"{where} refused the login: no key of ours is accepted there",
            quote=denied,
            next=f"install a key with ssh-copy-id, or name one in ssh.identity_file; try: {by_hand(ssh, 'true')}",
        )
    return HostUnreachable(f"{where} is unreachable", quote=last, next=by_hand(ssh, "true"))


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of mode 0700 whose path ssh can take for a socket."""
    folder = tempfile.TemporaryDirectory(prefix="overspan-ssh-", ignore_cleanup_errors=True)
    if len(folder.name) + 13 <= SOCKET_PATH_LIMIT and "%" not in folder.name:  # ssh expands % in the socket's path
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="overspan-ssh-", dir="/tmp", ignore_cleanup_errors=True)
