"""The run's folder on storage that the login node and all nodes share: what goes into a job, and comes out of it."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from overspan.launchers.slurm_state import Node, ask, nodes_of
from overspan.schema.errors import InputError

if TYPE_CHECKING:
    from overspan.transport.base import Transport

_HOME: Final = 'printf %s "$HOME"'
_RECEIVE: Final = 'umask 077; mkdir -p -- "$1" && tar -x -C "$1"'
_READ: Final = """\
for each; do
  tail -c "+$((${each%%:*} + 1))" -- "${each#*:}" 2>/dev/null | head -c 1048576 | base64 | tr -d '\\n'; echo
done"""
"""Prints what each file has beyond an offset in bytes, at most 1 MiB: one line of base64 a file."""

_END: Final = re.compile(r"(?P<at>[0-9]+(\.[0-9]+)?) (?P<code>[0-9]+) (?P<name>.+)")
"""What `tell_end` of batch.sh writes: seconds since the epoch, the step's exit code, the step."""


class JobFolder:
    """The folder of one run, through the login node. `base`: where the site wants such folders; None: in the home."""

    def __init__(self, login: Transport, run: str, base: str | None) -> None:
        self._login, self._run, self._base = login, run, base
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read: another job writes."""
        self._offsets: dict[str, int] = {}
        self._half_line = b""

    @property
    def base(self) -> str:
        """The folder of all runs and images."""
        if self._base is None:
            home = ask(self._login, ["sh", "-c", _HOME]).check("looking for the home folder").stdout.strip()
            self._base = f"{home}/overspan"
        return self._base

    @property
    def path(self) -> str:
        """The run's folder."""
        return f"{self.base}/runs/{self._run}"

    def require_writable(self) -> None:
        """Make it.

        Raises:
            InputError: it cannot be made.
        """
        made = ask(self._login, ["mkdir", "-p", "--", f"{self.path}/logs"])
        if made.code != 0:
            raise InputError(
                f"the run's folder {self.path} cannot be made on the login node",
                quote=made.stderr.strip() or None,
                next="name a folder that the login node and all nodes share: slurm.folder in the inventory",
            )

    def receive(self, packed: bytes) -> None:
        """Unpack a tar into it; only its user can enter it."""
        done = ask(self._login, ["sh", "-c", _RECEIVE, "sh", self.path], stdin=packed)
        done.check(f"writing {self.path} on the shared storage")

    def keep(self, folder: Path) -> str:
        """Copy a small folder of this machine, named by what is in it, beside the runs: where it is there."""
        there, packed = f"{self.base}/{folder.parent.name}/{folder.name}", io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(folder, ".")
        done = ask(self._login, ["sh", "-c", _RECEIVE, "sh", there], stdin=packed.getvalue())
        done.check(f"writing {there} on the shared storage")
        return there

    def begin_ending(self) -> None:
        """Tell the batch script that its steps are to end, so that the first to end does not end the others."""
        ask(self._login, ["touch", "--", f"{self.path}/ending"])

    def remove(self, *, must: bool = False) -> None:
        """Remove it; with `must`, what is left is an error."""
        done = ask(self._login, ["rm", "-rf", "--", self.path])
        if must:
            done.check("removing its folder")

    def nodes(self) -> dict[str, Node]:
        """The machines that stand for the plan's hosts; none before the job's script has run."""
        return nodes_of(self._read([f"{self.path}/nodes"], [0])[0].decode(errors="replace"))

    def news(self, names: Sequence[str]) -> tuple[dict[str, bytes], list[tuple[float, int, str]]]:
        """What is new since the last call.

        Returns:
            The output by log, and the ends of steps: seconds since the epoch, exit status, step. A line that no job
            of ours writes costs no other.

        Raises:
            OverspanError: the folder cannot be read.
        """
        paths = [*(f"{self.path}/logs/{name}.log" for name in names), f"{self.path}/ended"]
        found = self._read(paths, [self._offsets.get(path, 0) for path in paths])
        for path, data in zip(paths, found, strict=True):
            self._offsets[path] = self._offsets.get(path, 0) + len(data)
        *whole, self._half_line = (self._half_line + found.pop()).split(b"\n")
        ends = (_END.fullmatch(line.decode(errors="replace")) for line in whole)
        told = [(float(end["at"]), int(end["code"]), end["name"]) for end in ends if end]
        return dict(zip(names, found, strict=True)), told

    def _read(self, paths: Sequence[str], offsets: Sequence[int]) -> list[bytes]:
        places = [f"{offset}:{path}" for path, offset in zip(paths, offsets, strict=True)]
        done = ask(self._login, ["sh", "-c", _READ, "sh", *places]).check("reading the run's folder")
        found = [base64.b64decode(line) for line in done.stdout.splitlines()]
        return [*found, *[b""] * (len(paths) - len(found))]
