"""Bring a folder of one host to another: only files that differ travel, and one that was cut goes on where it was.

A few lines of shell, not rsync: that is not on every host, compares by time where this compares by content, and would
leave two ways to do one thing. A file arrives under another name, is checked there by its SHA-256, and only then takes
its place, so an engine never sees half of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from overspan.provision.manifest import PARTIAL, HashedFile, differences, printable, read_manifest
from overspan.provision.space import size as readable
from overspan.schema.errors import ModelUnavailable, OverspanError
from overspan.store.locks import Say, quiet
from overspan.transport.copying import ReachableHost, RouteKind, choose_route, stream

STEP_TIMEOUT_S: Final = 60.0

_TAKE_OVER: Final = """
[ -e "$1" ] || { echo 0; exit; }
exec 9>>"$1"
if ! flock -n 9; then
  before=$(stat -c %s -- "$1"); sleep 3
  [ "$(stat -c %s -- "$1")" = "$before" ] || { echo "another copy is writing $1" >&2; exit 75; }
  writer=$(cat -- "$1.pid")
  if [ "/proc/$writer/fd/9" -ef "$1" ]; then kill -KILL "$writer"; fi
  flock -w 10 9 || { echo "process $writer does not let go of $1" >&2; exit 75; }
fi
stat -c %s -- "$1"
"""
"""Prints how much of file $1 has arrived. A writer that holds it while it does not grow was left by a connection that
was cut: its sshd has not noticed, and may yet get what the network still has to deliver. It is ended first, or it would
write into what the next try sends. 75 is EX_TEMPFAIL of sysexits.h."""

_RECEIVE: Final = """
exec 9>>"$1"
flock -n 9 || { echo "another copy is writing $1" >&2; exit 75; }
[ "$(stat -c %s -- "$1")" = "$2" ] || { echo "$1 has changed since it was looked at" >&2; exit 75; }
echo $$ >"$1.pid"
exec cat >&9
"""
"""Adds standard input to file $1, which must have $2 bytes."""


@dataclass(frozen=True)
class Copied:
    """What a copy did. `resumed_bytes` had arrived in an earlier try."""

    files: list[str]
    bytes: int
    resumed_bytes: int
    route: RouteKind | None


def copy_folder(source: ReachableHost, target: ReachableHost, folder: str, *, say: Say = quiet) -> Copied:
    """Bring what the target lacks of the source's folder. Files that only the target has are left alone.

    Raises:
        ModelUnavailable: the source has no such folder, or the target has no room.
        HostUnreachable: a host does not answer; what has arrived is used by the next try.
        OverspanError: a file did not arrive as it was sent.
    """
    wanted, there = read_manifest(source, folder), read_manifest(target, folder)
    if not wanted.files:
        raise ModelUnavailable(f"{source.host.name} has no files in {folder}")
    missing = {each.path: each.first for each in differences(wanted, there) if each.first is not None}
    if not missing:
        return Copied(files=[], bytes=0, resumed_bytes=0, route=None)
    started = {path: _arrived(target, _partial(folder, path, entry)) for path, entry in missing.items()}
    _require_space(target, folder, sum(entry.size for entry in missing.values()) - sum(started.values()))
    route = choose_route(source, target)
    way = "directly" if route == "direct" else "through this machine: the first has no ssh of its own to the second"
    for path, entry in missing.items():
        say(f"copying {printable(path)} ({readable(entry.size)}) from {source.host.name} to {target.host.name}, {way}")
        _Copy(source, target, folder, route).file(path, entry, started[path])
    read_manifest(target, folder)
    return Copied(
        files=list(missing),
        bytes=sum(entry.size for entry in missing.values()) - sum(started.values()),
        resumed_bytes=sum(started.values()),
        route=route,
    )


def _partial(folder: str, path: str, entry: HashedFile) -> str:
    """Where a file arrives. The content is in its name, so that another version never goes on from this one."""
    return f"{folder.rstrip('/')}/{path}{PARTIAL}{entry.sha256[:12]}"


def _arrived(target: ReachableHost, partial: str) -> int:
    """Bytes that an earlier try has brought, and from now on nobody else adds to them."""
    done = target.transport.run(["sh", "-c", _TAKE_OVER, "sh", partial], timeout_s=STEP_TIMEOUT_S)
    return int(done.check(f"looking for {printable(partial)}").stdout)


@dataclass(frozen=True)
class _Copy:
    """The way that the files of one folder take."""

    source: ReachableHost
    target: ReachableHost
    folder: str
    route: RouteKind

    def _there(self, *argv: str) -> str:
        return self.target.transport.run(argv).check(f"copying {self.folder}").stdout

    def file(self, path: str, entry: HashedFile, offset: int) -> None:
        """Bring one file, from `offset` on, check it and put it in its place."""
        final, partial = f"{self.folder.rstrip('/')}/{path}", _partial(self.folder, path, entry)
        self._there("mkdir", "-p", "--", str(PurePosixPath(final).parent))
        if offset < entry.size or entry.size == 0:
            produce = ["tail", "-c", f"+{offset + 1}", "--", final]
            stream(self.source, produce, self.target, ["sh", "-c", _RECEIVE, "sh", partial, str(offset)], self.route)
        if self._there("sha256sum", "--", partial).lstrip("\\").split()[0] != entry.sha256:
            if _arrived(self.target, partial) >= entry.size:
                self._there("rm", "-f", "--", partial, f"{partial}.pid")
            raise OverspanError(
                f"{printable(final)} did not arrive on {self.target.host.name} as it is on {self.source.host.name}",
                next="run the same command again: it goes on where this one ended",
            )
        self._there("mv", "-fT", "--", partial, final)
        self._there("rm", "-f", "--", f"{partial}.pid")


def _require_space(target: ReachableHost, folder: str, needed: int) -> None:
    target.transport.run(["mkdir", "-p", "--", folder], timeout_s=STEP_TIMEOUT_S).check(f"making {folder}")
    done = target.transport.run(["df", "-B1", "--output=avail", "--", folder], timeout_s=STEP_TIMEOUT_S)
    free = int(done.check(f"asking for the space of {folder}").stdout.split()[-1])
    if free < needed:
        raise ModelUnavailable(
            f"no space on {target.host.name} for {folder}: it needs {readable(needed)}, {readable(free)} are free"
        )
