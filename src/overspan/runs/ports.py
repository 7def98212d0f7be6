"""Ports of this machine: take a free one, or say who has the one that is wanted."""

from __future__ import annotations

import errno
import socket

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
    return endpoint.model_copy(update={"port": port})


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another user's process"
    listening = [
        each for each in connections if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port
    ]
    found = [process for each in listening if each.pid and (process := proc.living(each.pid))]
    if not found:
        return "a process that this user may not see"
    # Forked children have the socket too; the one that opened it is the oldest.
    oldest = min(found, key=proc.born)
    return f"{proc.title(oldest)[:120]} (pid {oldest.pid})"
