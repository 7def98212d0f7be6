"""Ports of this machine: take a free one, or say who has the one that is wanted."""

from __future__ import annotations

import errno
import socket

import psutil

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
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                return f"{' '.join(process.cmdline())[:120] or process.name()} (pid {process.pid})"
            except psutil.NoSuchProcess:
                break
    return "a process that this user may not see"
