"""One container's output, kept in a file of this machine as it comes, over lost connections."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from overspan.launchers import docker_commands
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.base import Transport

RETRY_S: Final = 1.0
"""Between two tries to reach a host that does not answer; connecting has a time limit of its own."""

_STAMPED: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) (.*)", re.DOTALL)


class Follower(threading.Thread):
    """Writes a container's lines to the end of a file, each once, until the container has ended or `stop` is called.

    Docker gives each line with the time at which it was written. After a lost connection the follower asks for what
    came since the last one, and leaves out those of that very time that it has.
    """

    def __init__(self, transport: Transport, container: str, log: Path, *, from_start: bool) -> None:
        super().__init__(name=f"logs of {container}", daemon=True)
        self._transport = transport
        self._container = container
        self._log = log
        self._mode = "w" if from_start else "a"
        self._since: str | None = None
        self._same_time = 0
        self._stopped = threading.Event()
        self.problem: str | None = None

    def stop(self) -> None:
        """Do not connect again."""
        self._stopped.set()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        with io.FileIO(self._log, self._mode) as file:
            while not self._stopped.is_set():
                try:
                    self._follow(file)
                except HostUnreachable:
                    self._stopped.wait(RETRY_S)
                    continue
                except OverspanError as error:
                    self.problem = f"{error.what}: {error.quote}" if error.quote else error.what
                return

    def _follow(self, file: io.FileIO) -> None:
        lines = self._transport.lines(docker_commands.logs(self._container, since=self._since))
        for text in self._fresh(lines):
            file.write(text.encode(errors="replace") + b"\n")

    def _fresh(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines that were not seen before. One without a time goes on with the line before it (a `\\r`)."""
        skip, last, wanted = self._same_time, self._since, False
        for line in lines:
            match = _STAMPED.fullmatch(line)
            if match is None:
                if wanted:
                    yield line
                continue
            wanted = not (skip and match[1] == last)
            if not wanted:
                skip -= 1
                continue
            self._same_time = self._same_time + 1 if match[1] == self._since else 1
            self._since = match[1]
            yield match[2]
