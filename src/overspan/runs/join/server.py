"""The head's side of a run that other hosts join by themselves: it takes them in, and their deaths are its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from overspan.engines.node import address_of
from overspan.launchers.base import Death, Health, Launcher
from overspan.runs.join import facts
from overspan.runs.join.messages import Hello, JoinAnswer, JoinConnection, Lost, News
from overspan.schema.defaults import JOIN_PORT, POLL_INTERVAL_S
from overspan.schema.errors import OverspanError
from overspan.schema.event import FINAL_STATES
from overspan.schema.plan import Placement, Plan
from overspan.store.run_folder import RunFolder

SEATS: Final = "joined.json"
"""What `status` reads: host -> health, since when."""

SETTLE_S: Final = 2.0
"""How long a death waits for word of an earlier one on another host; each looks twice a second."""

GONE_S: Final = 10.0
"""A joined supervisor that closed its connection may come back for this long; its guardian ends its ranks meanwhile."""

_STRANGERS: Final = 16
"""Connections that are heard at once beside those of the awaited hosts: questions before a launch, port scanners."""

_HELLO_S: Final = 10.0
_FAREWELL_S: Final = 3.0


@dataclass
class _Seat:
    """A place for one awaited host. `line` is the connection that has it now."""

    placement: Placement
    address: str
    line: JoinConnection | None = None
    health: Health | None = None
    left_at: float | None = None


class JoinServer:
    """Hears of the processes that joined hosts start, beside the head's own launcher. They start and end theirs at the
    events of the head's run."""

    def __init__(self, run: RunFolder, plan: Plan, own: Launcher) -> None:
        self._run, self._own = run, own
        self._facts = run.note(facts.FILE)
        hosts = {host.name: host for host in plan.inventory.hosts}
        self._seats = {each.host: _Seat(each, address_of(hosts[each.host])) for each in plan.awaited}
        self._told: list[Death] = []
        self._lock = threading.Lock()
        self._attending: set[threading.Thread] = set()
        self._recipe, self._address = plan.recipe.name, address_of(hosts[plan.head])
        self._server = _listen(self._address)
        threading.Thread(target=self._accept, daemon=True).start()
        self._note()

    def gather(self, timeout_s: float, ended: Callable[[], bool]) -> None:
        """Wait until every awaited host is here.

        Raises:
            OverspanError: one has not come in time.
        """
        deadline = time.monotonic() + timeout_s
        for place in (seat.placement for seat in self._seats.values() if seat.line is None):
            command = f"overspan join {self._address} {self._recipe} --on INVENTORY"
            self._run.append(f"waiting for {place.host}; there: {command}", process=place.process, host=place.host)
        while not ended():
            missing = [host for host, seat in self._seats.items() if seat.line is None]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise OverspanError(f"{', '.join(missing)} did not join within {timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._server.accept()
            except OSError:
                return
            if len(self._attending) >= len(self._seats) + _STRANGERS:
                connection.close()
                continue
            thread = threading.Thread(target=self._attend, args=(JoinConnection(connection), str(peer[0])), daemon=True)
            self._attending.add(thread)
            thread.start()

    def _attend(self, line: JoinConnection, peer: str) -> None:
        """One connection, from its first word to its end."""
        seat = None
        try:
            hello = line.receive(Hello, _HELLO_S)
            if hello is None:
                return
            answer, seat = self._judge(hello, peer, line)
            line.send(answer)
            if seat is not None:
                self._converse(line, seat, hello.seen)
        except Lost as lost:
            self._lost(seat, lost)
        except OverspanError as error:
            self._run.append(f"{peer} is not understood: {error.what}", lines=[error.quote] if error.quote else [])
            self._lost(seat, Lost(error.what, left=True))
        finally:
            line.close()
            self._attending.discard(threading.current_thread())

    def _judge(self, hello: Hello, peer: str, line: JoinConnection) -> tuple[JoinAnswer, _Seat | None]:
        """Whether a host may join; with its seat, which it has from now on."""
        with self._lock:
            seat = self._seats.get(hello.host)
            reason, differs = None, facts.differences(self._facts, hello.facts)
            if seat is None:
                reason = f"this run awaits {', '.join(self._seats)}, not {hello.host}"
            elif peer != seat.address:
                reason = f"the head's inventory has {hello.host} at {seat.address}, not at {peer}"
            elif seat.line is not None:
                reason = f"{hello.host} has joined already"
            elif hello.run not in (None, self._run.id):
                reason = f"run {hello.run} is over; the head runs {self._run.id} now"
            elif differs:
                reason = "the plans differ"
            # Only an awaited host learns what the plan holds.
            known = seat is not None and peer == seat.address
            answer = JoinAnswer(run=self._run.id, refused=reason, differs=differs if known else [])
            if seat is None or reason is not None or hello.only_ask:
                return answer, None
            seat.line, seat.health, seat.left_at = line, "running", None
        self._run.append(f"{hello.host} joined from {peer}", process=seat.placement.process, host=seat.placement.host)
        self._note()
        return answer, seat

    def _converse(self, line: JoinConnection, seat: _Seat, seen: int) -> None:
        """Pass on the run's events as they come, and take in the host's deaths, until the run is over."""
        while True:
            events = self._run.events()
            for event in events[seen:]:
                lines = [str(each) for each in event.data.get("lines") or []]
                settled = bool(event.data.get("settled"))
                line.send(News(number=seen, message=event.message, state=event.state, lines=lines, settled=settled))
                seen += 1
            if events and events[-1].state in FINAL_STATES:
                line.finish(SETTLE_S)
                return
            heard = line.receive(News, POLL_INTERVAL_S)
            if heard is not None and heard.death is not None:
                with self._lock:
                    seat.health = "dead"
                    self._told.append(_from(seat, heard.death, heard.age_s))

    def _lost(self, seat: _Seat | None, lost: Lost) -> None:
        if seat is None or self._run.ended:
            return
        with self._lock:
            seat.line = None
            if seat.health == "running":
                seat.health, seat.left_at = "unknown", time.monotonic() if lost.left else None
        how = "its supervisor closed the connection" if lost.left else "it does not answer, which is no death"
        self._run.append(f"{seat.placement.host}: {how}", process=seat.placement.process, host=seat.placement.host)
        self._note()

    def _note(self) -> None:
        self._run.record(SEATS, {host: seat.health or "awaited" for host, seat in self._seats.items()})

    def wait(self, timeout_s: float) -> list[Death]:
        """As the own launcher waits; deaths that joined hosts tell are among those that come."""
        deaths = self._own.wait(timeout_s) + self._taken()
        if not deaths:
            return []
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            deaths += self._own.wait(POLL_INTERVAL_S) + self._taken()
        return sorted(deaths, key=lambda death: death.died_at)

    def _taken(self) -> list[Death]:
        with self._lock:
            told, self._told = self._told, []
            for seat in self._seats.values():
                if seat.left_at is not None and time.monotonic() - seat.left_at > GONE_S:
                    seat.left_at, seat.health = None, "dead"
                    told.append(_from(seat, Death(process="", host="", what="its supervisor"), GONE_S))
        return told

    def close(self) -> None:
        """Let every joined host hear the last event, then go."""
        deadline = time.monotonic() + _FAREWELL_S
        for thread in list(self._attending):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._server.close()


def _listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, JOIN_PORT), family=family)
    except OSError as error:
        raise OverspanError(
            f"no host can join: {address}, port {JOIN_PORT}: {error.strerror}", next=f"ss -ltnp | grep {JOIN_PORT}"
        ) from None


def _from(seat: _Seat, death: Death, age_s: float) -> Death:
    """What a host told of itself, under the name that it has here and by this machine's clock."""
    place = seat.placement
    changes = {"process": place.process, "host": place.host, "ranks": place.ranks, "died_at": time.time() - age_s}
    return death.with_(**changes)
