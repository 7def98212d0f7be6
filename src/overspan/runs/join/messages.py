"""What a head and the hosts that join it say to each other: lines of JSON over one connection each, on the fabric.

A host that joins says what it would run (`Hello`); the head compares that with its own plan, field by field, and
answers with what differs, or takes it in. From then on the head passes on its run's events, and the joined host tells a
death of its own. Nothing that arrives is ever run: what a host starts comes from its own recipe and inventory. The head
hears only the addresses that its inventory gives to the awaited hosts.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from overspan.launchers.base import Death
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.schema.event import State
from overspan.store.files import problem_of

LONGEST_LINE: Final = 1 << 20
"""Bytes: a recipe and an inventory of 64 hosts are far smaller, and no peer may fill our memory."""

SILENCE_S: Final = 15
"""A peer whose kernel acknowledges nothing for this long does not answer; that is no death."""

JoinMessage = TypeVar("JoinMessage", bound=BaseModel)


class Hello(Frozen):
    """From a host that joins. `facts`: see `overspan.runs.join.facts`. `only_ask`: whether it may, no more."""

    host: str
    facts: dict[str, str]
    only_ask: bool = False
    run: str | None = Field(None, description="the head's run that it belongs to, when it comes again")
    seen: int = Field(0, description="how many of that run's events it has heard")


class JoinAnswer(Frozen):
    """The head's answer. `refused` is the reason, and `differs` names what is not the same: (field, head, host)."""

    run: str
    refused: str | None = None
    differs: list[tuple[str, str, str]] = Field(default_factory=list)


class News(Frozen):
    """From the head: an event of its run. From a joined host: a death of its own, `age_s` before it was sent."""

    number: int = Field(0, description="the event's place among the run's events")
    message: str = ""
    state: State | None = None
    lines: list[str] = Field(default_factory=list)
    settled: bool = Field(False, description="of an event after which `up` ends, though nothing is verified")
    death: Death | None = None
    age_s: float = 0.0


class Lost(OverspanError):
    """A connection is over. `left` tells whether the other end closed it; otherwise it does not answer."""

    def __init__(self, what: str, *, left: bool) -> None:
        super().__init__(what)
        self.left = left


class JoinConnection:
    """One connection: a message a line. Reading and writing may happen in two threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, 5),
            (socket.TCP_KEEPINTVL, 5),
            (socket.TCP_KEEPCNT, SILENCE_S // 5),
            (socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    @classmethod
    def to(cls, address: str, port: int, timeout_s: float, *, own: str) -> JoinConnection:
        """Call, from an address of one's own: the one that the other end knows.

        Raises:
            Lost: nobody answers; `left` where the machine does and nothing listens there.
        """
        try:
            return cls(socket.create_connection((address, port), timeout_s, source_address=(own, 0)))
        except ConnectionRefusedError:
            raise Lost(f"nothing listens on {address}, port {port}", left=True) from None
        except OSError as error:
            raise Lost(f"{address} does not answer: {error}", left=False) from None

    def send(self, message: BaseModel) -> None:
        """Raises Lost where the connection is over."""
        try:
            self._socket.sendall(message.model_dump_json(exclude_defaults=True).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise _lost(error) from None

    def receive(self, kind: type[JoinMessage], timeout_s: float) -> JoinMessage | None:
        """The next message; None where none has come in time.

        Raises:
            Lost: the connection is over.
            OverspanError: what came is no such message.
        """
        try:
            self._socket.settimeout(timeout_s)
            while b"\n" not in self._rest:
                part = self._socket.recv(65536)
                if not part:
                    raise Lost("the other end closed the connection", left=True)
                self._rest += part
                if len(self._rest) > LONGEST_LINE:
                    raise OverspanError("the other end sent a line that is too long")
        except TimeoutError as error:
            if error.errno is None:  # ours; the kernel's own (ETIMEDOUT) means that the peer is silent
                return None
            raise _lost(error) from None
        except OSError as error:
            raise _lost(error) from None
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return kind.model_validate_json(line)
        except ValidationError as error:
            what = f"the other end sends what is no {kind.__name__}: {problem_of(error, 'it')}"
            raise OverspanError(what, quote=str(line[:120])) from None

    def finish(self, timeout_s: float) -> None:
        """Close when the other end has heard all: a plain close with words unheard here would cut off the last ones."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(timeout_s)
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(65536):
                pass
        self._socket.close()

    def close(self) -> None:
        """Twice is fine."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _lost(error: Exception) -> Lost:
    left = isinstance(error, (ConnectionResetError, BrokenPipeError, ValueError))
    return Lost(f"the connection is over: {error}", left=left)
