"""Ports of this machine: take a free one, or say who has the one that is wanted."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

import psutil

from overspan.launchers import proc
from overspan.schema.errors import InputError, PortTaken
from overspan.schema.plan import Endpoint


def claim(endpoint: Endpoint) -> Endpoint:
    """The endpoint with a port that is free now; port 0 becomes one.

    Raises:
        PortTaken: somebody has the port; names the process.
        InputError: this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"port {endpoint.port} on {endpoint.host} is taken by {holder(endpoint.port)}",
                    next="choose another, e.g. --set port=0 for any free one",
                ) from None
            raise InputError(f"cannot serve on {endpoint.host}:{endpoint.port}: {error.strerror}") from None
        port = probe.getsockname()[1]
    return endpoint.with_(port=port)


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    listening = _listening(port)
    if listening is None:
        return "another user's process"
    for each in listening:
        if process := proc.living(each.pid):
            return _named(process, port)
    return "a process that this user may not see"


def stranger(endpoint: Endpoint) -> str | None:
    """Who answers in the place of this session's own processes, which have not bound the port yet; None when nobody.

    A port that was free when the run was planned may be somebody else's by the time the engine binds it.
    """
    places = {endpoint.host, "0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    others = []
    for each in _listening(endpoint.port) or []:
        if each.laddr.ip not in places:
            continue
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(each.pid) == os.getsid(0):
                return None
            if process := proc.living(each.pid):
                others.append(process)
    return _named(others[0], endpoint.port) if others else None


def _listening(port: int) -> list[Any] | None:
    """The listening sockets of a port whose processes this user may know; None where it may know none at all."""
    try:
        connections: list[Any] = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    return [each for each in connections if _listens(each, port) and each.pid]


def _named(process: psutil.Process, port: int) -> str:
    """Forked children have a socket too, and psutil tells one of them; the one that opened it is the first ancestor."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        parent = process.parent()
        if parent is not None and any(_listens(each, port) for each in parent.net_connections("tcp")):
            return _named(parent, port)
    return f"{proc.title(process)[:120]} (pid {process.pid})"


def _listens(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port)
