"""The supervisor's part on a host that joined: its ranks start, start again and end with the head's run."""

from __future__ import annotations

import time
from typing import Final

from overspan.engines.node import address_of
from overspan.launchers.base import Death
from overspan.runs.join import facts
from overspan.runs.join.messages import Hello, JoinAnswer, JoinConnection, Lost, News
from overspan.runs.supervising import FAILED_GRACE_S, Supervision
from overspan.schema.defaults import JOIN_PORT, POLL_INTERVAL_S
from overspan.schema.errors import HostUnreachable, InputError, OverspanError
from overspan.schema.event import FINAL_STATES, SERVING_STATES
from overspan.schema.plan import Plan
from overspan.store.run_folder import RunFolder

CALL_S: Final = 2.0
"""Connecting to a host on the fabric takes milliseconds; while a call waits, deaths here are told later by as much."""

ANSWER_S: Final = 10.0

GONE_S: Final = 10.0
"""Where the head's machine answers and its supervisor does not listen for this long, the head's run is over."""

VERDICT_S: Final = 15.0
"""How long a death here waits for the head's word; the head settles within a few seconds."""


def head_address(plan: Plan) -> str:
    """Where the head hears."""
    return _address(plan, plan.head)


def _address(plan: Plan, name: str) -> str:
    return address_of(plan.host(name))


def reach_head(plan: Plan) -> JoinConnection:
    """A connection to the head's run.

    Raises:
        HostUnreachable: the head does not answer, or awaits nobody.
    """
    address = head_address(plan)
    try:
        return JoinConnection.to(address, JOIN_PORT, CALL_S, own=_address(plan, plan.part or plan.head))
    except Lost as lost:
        asleep = "; no run awaits hosts there" if lost.left else ""
        what = f"head {plan.head} ({address}): {lost.what}{asleep}"
        raise HostUnreachable(what, next=_start(plan) if lost.left else f"ping {address}") from lost


def _start(plan: Plan) -> str:
    return f"on {plan.head}: overspan up {plan.recipe.name} --join-later --on INVENTORY"


def call(plan: Plan, hello: Hello) -> tuple[JoinConnection, JoinAnswer]:
    """Call the head and be let in.

    Raises:
        HostUnreachable: the head does not answer, or awaits nobody.
        InputError: it refuses, with what differs.
    """
    line, address = reach_head(plan), head_address(plan)
    try:
        line.send(hello)
        answer = line.receive(JoinAnswer, ANSWER_S)
        if answer is None:
            raise Lost("it does not answer", left=False)
    except Lost as lost:
        line.close()
        raise HostUnreachable(f"head {plan.head} ({address}): {lost.what}", next=_start(plan)) from lost
    if answer.refused is not None:
        line.close()
        differs = [f"\n  - {name}: {there} on {plan.head}, {here} here" for name, there, here in answer.differs[:12]]
        raise InputError(
            f"run {answer.run} on {plan.head} does not take {hello.host} in: {answer.refused}{''.join(differs)}",
            next="give both hosts the same recipe, inventory and --set"
            if differs
            else f"overspan status, on {plan.head}",
        )
    return line, answer


def hello_of(run: RunFolder, plan: Plan, *, only_ask: bool = False) -> Hello:
    """What this host says of itself."""
    return Hello(host=plan.part or "", facts=run.note(facts.FILE), only_ask=only_ask)


class _HeadLine:
    """The line to the head, made anew when it breaks. Used from one thread."""

    def __init__(self, run: RunFolder, plan: Plan) -> None:
        self._run, self._plan = run, plan
        self._hello = hello_of(run, plan)
        self._line: JoinConnection | None
        self._line, answer = call(plan, self._hello)
        self._hello = self._hello.with_(run=answer.run)
        self._silent_since: float | None = None
        self._tried = 0.0

    def hear(self) -> list[News]:
        """What the head has said since.

        Raises:
            OverspanError: the head's run is over, as far as can be told.
        """
        if self._line is None:
            self._again()
        news: list[News] = []
        try:
            while self._line is not None and (one := self._line.receive(News, 0.01)) is not None:
                news.append(one)
                self._hello = self._hello.with_(seen=one.number + 1)
        except Lost as lost:
            self._lose(lost)
        return news

    def tell(self, death: Death) -> None:
        """Tell a death, if the head hears."""
        if self._line is not None:
            try:
                self._line.send(News(death=death, age_s=max(0.0, time.time() - death.died_at)))
            except Lost as lost:
                self._lose(lost)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()

    def _lose(self, lost: Lost) -> None:
        self.close()
        self._line, self._silent_since = None, time.monotonic()
        self._run.append(f"head {self._plan.head}: {lost.what}; the processes here keep running", host=self._plan.head)

    def _again(self) -> None:
        if time.monotonic() - self._tried < 1.0:
            return
        self._tried = time.monotonic()
        try:
            self._line, _ = call(self._plan, self._hello)
        except HostUnreachable as error:
            left = isinstance(error.__cause__, Lost) and error.__cause__.left
            if not left:
                self._silent_since = time.monotonic()
            elif time.monotonic() - (self._silent_since or 0.0) > GONE_S:
                raise OverspanError(f"the head's run is gone: {error.what}") from None
            return
        self._run.append(f"head {self._plan.head} answers again", host=self._plan.head)


def serve(part: Supervision) -> None:
    """Follow the head's run to its end.

    Raises:
        OverspanError: the head refuses, or is gone.
    """
    signals = part.signals
    part.record()
    head = _HeadLine(part.run, part.plan)
    part.run.append(f"joined {part.plan.head}; the ranks here start when every host has joined")
    died: Death | None = None
    died_at = 0.0
    try:
        while True:
            for death in part.launcher.wait(POLL_INTERVAL_S):
                head.tell(death)
                died, died_at = died or death, died_at or time.monotonic()
            if signals.ended():
                _leave(part, head)
                return
            for news in head.hear():
                if news.state == "launching":
                    died, died_at = None, 0.0
                if _follow(part, news):
                    return
            if died is not None and time.monotonic() - died_at > VERDICT_S:
                what = f"{died.what} on {died.host} {died.how}; the head says nothing to it"
                part.failed(what, died.lines, process=died.process, host=died.host)
                return
    finally:
        head.close()


def _leave(part: Supervision, head: _HeadLine) -> None:
    """Somebody here wants it to end: the head hears that its gang is broken."""
    why = "stopped by its own user" if part.signals.stop else "its guardian was killed"
    place = part.plan.own[0]
    head.tell(Death(process=place.process, host=place.host, what=f"{place.process} ({why})"))
    if part.signals.stop:
        part.stopped()
    else:
        part.failed("the guardian was killed")


def _follow(part: Supervision, news: News) -> bool:
    """Do what the head does; True when the run is over."""
    told = f"the head's run: {news.message}"
    if news.state == "launching":
        part.launch()
    elif news.state in FINAL_STATES:
        left = part.launcher.end(FAILED_GRACE_S)
        part.run.append(told, state=news.state, lines=news.lines, left=left)
        return True
    elif news.state == "restarting":
        part.run.append(told, state="restarting")
        part.launcher.end(FAILED_GRACE_S)
    elif news.state in SERVING_STATES:
        part.run.append(told, state=news.state, settled=news.settled)
    return False
