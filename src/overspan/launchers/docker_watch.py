"""Looks at every host's containers again and again, and tells deaths in the order in which they happened."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Final

from overspan.launchers.base import Death
from overspan.launchers.docker_state import Container, last_lines, look, seconds
from overspan.schema.errors import OverspanError
from overspan.transport.base import Transport

LOOK_INTERVAL_S: Final = 0.5
"""How often each host is asked: two commands of about 30 ms each, well inside the 5 s in which a death must be told."""

SETTLE_S: Final = 2.0
"""How long a death waits for the other hosts' answers, so that the first to die is named first."""

LAST_LINES: Final = 12
"""How many lines a death quotes, as the local launcher does."""


@dataclass
class Watched:
    """A container that was started or found. `vital` are the children seen in it that must live, by process id."""

    host: str
    container: str
    process: str
    ranks: list[int]
    vital_titles: list[str] = field(default_factory=list)
    vital: dict[int, str] = field(default_factory=dict)
    died_at: float | None = None
    code: int | None = None
    what: str = ""
    dead: bool = False

    def take_in(self, now: Container | None, clock_ahead_s: float) -> None:
        """See whether it lives; `now` is None when the host's engine does not know it any more."""
        if self.died_at is not None:
            return
        if now is None:
            self.died_at, self.what = time.time(), f"{self.process} (container {self.container[:12]}, removed)"
        elif not now.alive:
            finished = seconds(now.state.finished)
            self.died_at = time.time() if finished is None else finished - clock_ahead_s
            self.code = now.code
            why = ", out of memory" if now.state.oom_killed else f", {now.state.error}" if now.state.error else ""
            self.what = f"{self.process} (container {self.container[:12]}{why})"
        elif now.titles:
            self._look_for_vital(now.titles)

    def _look_for_vital(self, titles: Mapping[int, str]) -> None:
        lost = [pid for pid in self.vital if pid not in titles]
        if lost:
            self.died_at, self.what = time.time(), f"{self.vital[lost[0]]} (pid {lost[0]})"
        for pid, title in titles.items():
            if any(fnmatch.fnmatchcase(title, pattern) for pattern in self.vital_titles):
                self.vital[pid] = title


@dataclass
class Site:
    """A host: the way to it, and the question that it was asked last."""

    host: str
    transport: Transport
    clock_ahead_s: float = 0.0
    asked: Future[list[Container]] | None = None
    asked_at: float = 0.0
    heard_at: float = 0.0
    """When the last question was asked that it has answered, or failed to."""


class Watcher:
    """Asks each host on its own, so that one that does not answer holds up nobody."""

    def __init__(self, sites: Mapping[str, Site], watched: Mapping[str, Watched], pool: Executor) -> None:
        self._sites = sites
        self._watched = watched
        self._pool = pool

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`."""
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            self._ask([site for site in self._of_interest() if now - site.asked_at >= LOOK_INTERVAL_S])
            self._hear(min(deadline, now + LOOK_INTERVAL_S))
            if self._fresh_dead():
                self._settle()
                return self._deaths()
            if time.monotonic() >= deadline:
                return []

    def _of_interest(self) -> list[Site]:
        hosts = {one.host for one in self._watched.values() if not one.dead}
        return [site for host, site in self._sites.items() if host in hosts]

    def _fresh_dead(self) -> list[Watched]:
        return [one for one in self._watched.values() if one.died_at is not None and not one.dead]

    def _ask(self, sites: list[Site]) -> None:
        for site in sites:
            if site.asked is None:
                ids = [one.container for one in self._watched.values() if one.host == site.host and not one.dead]
                site.asked_at = time.monotonic()
                site.asked = self._pool.submit(look, site.transport, ids)

    def _hear(self, until: float) -> None:
        """Wait for an answer, at most `until`, and take in what has come."""
        asked = [site for site in self._sites.values() if site.asked is not None]
        left = max(0.0, until - time.monotonic())
        if not asked:
            time.sleep(min(left, LOOK_INTERVAL_S / 10))
        wait([site.asked for site in asked if site.asked is not None], timeout=left, return_when=FIRST_COMPLETED)
        for site in asked:
            if site.asked is not None and site.asked.done():
                self._take_in(site, site.asked)
                site.asked, site.heard_at = None, site.asked_at

    def _take_in(self, site: Site, answer: Future[list[Container]]) -> None:
        try:
            found = {one.id: one for one in answer.result()}
        except OverspanError:
            return  # the host does not answer: its processes are unknown, which `members` says
        for one in self._watched.values():
            if one.host == site.host and not one.dead:
                one.take_in(found.get(one.container), site.clock_ahead_s)

    def _settle(self) -> None:
        """Hear every host once more, so that one that saw an earlier death can say so."""
        start = time.monotonic()
        while time.monotonic() < start + SETTLE_S:
            behind = [site for site in self._of_interest() if site.heard_at < start]
            if not behind:
                return
            self._ask(behind)
            self._hear(start + SETTLE_S)

    def _deaths(self) -> list[Death]:
        fresh = sorted(self._fresh_dead(), key=lambda one: one.died_at or 0.0)
        for one in fresh:
            one.dead = True
        return [self._death(one) for one in fresh]

    def _death(self, one: Watched) -> Death:
        try:
            lines = last_lines(self._sites[one.host].transport, one.container, LAST_LINES)
        except OverspanError as error:
            lines = [f"(its last lines cannot be read: {error.what})"]
        return Death(
            process=one.process,
            host=one.host,
            ranks=one.ranks,
            what=one.what,
            code=one.code,
            lines=lines,
            died_at=one.died_at or time.time(),
        )
