"""What preflight and `status` ask of a host: each a fact (command and pure parser), some made for an address or a path.

`look` runs one and gives its value or the reason why there is none; the capture is the evidence of a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from overspan.inventory.fact import Capture, Fact, Seen, Unreadable, Value, ask, read
from overspan.inventory.machine import Disk, HostMemory, parse_df
from overspan.schema.errors import InputError
from overspan.transport import docker
from overspan.transport.base import Transport

HEADERS_BYTES: Final = {4: 28, 6: 48}
"""The headers of IP and ICMP, which a ping's payload leaves room for. Source: RFC 791 and 792; RFC 8200 and 4443."""

PINGS: Final = 3

UNLIMITED: Final = -1


@dataclass(frozen=True)
class Ping:
    """What came back. `refused_here`: this host did not even send them, because its own MTU is smaller."""

    sent: int
    received: int
    refused_here: int
    rtt_ms: float | None


@dataclass(frozen=True)
class Listener:
    """A TCP socket that waits for connections. `process` is told to its owner and to root."""

    address: str
    port: int
    process: str | None
    pid: int | None


@dataclass(frozen=True)
class Limits:
    """Locked memory that a process may have, bytes; UNLIMITED for no limit."""

    memlock_soft_bytes: int
    memlock_hard_bytes: int


def look(transport: Transport, fact: Fact[Value]) -> tuple[Seen[Value], Capture]:
    """Run a fact's command on a host.

    Returns:
        Its value or why there is none, and what was written.

    Raises:
        HostUnreachable: the host does not answer.
    """
    capture = ask(transport, fact)
    return read(fact, capture), capture


def ping(address: str, mtu: int) -> Fact[Ping]:
    """Packets of exactly `mtu` bytes that must not be split: they arrive only if the whole way carries that MTU."""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", address):
        raise InputError(f"not an IP address: {address!r}")
    family = 6 if ":" in address else 4
    payload = mtu - HEADERS_BYTES[family]
    argv = [
        "ping",
        f"-{family}",
        "-n",
        "-c",
        str(PINGS),
        "-i",
        "0.2",
        "-W",
        "1",
        "-M",
        "do",
        "-s",
        str(payload),
        address,
    ]
    return Fact("ping", argv, parse_ping)


def parse_ping(text: str) -> Ping:
    """The summary of iputils' ping: `3 packets transmitted, 0 received, +3 errors, 100% packet loss`."""
    found = re.search(r"(\d+) packets transmitted, (\d+) received,(?: \+(\d+) errors,)?", text)
    if found is None:
        raise Unreadable(f"no summary: {text.strip()[:80]!r}")
    rtt = re.search(r"^rtt min/avg/max/mdev = [\d.]+/([\d.]+)/", text, re.MULTILINE)
    return Ping(int(found[1]), int(found[2]), int(found[3] or 0), float(rtt[1]) if rtt else None)


def disk(path: str) -> Fact[Disk]:
    """The file system that holds a folder."""
    return Fact("df", ["df", "-P", "-B1", "--", path], parse_df)


def image(name: str) -> Fact[docker.ImageRecord]:
    """An image on the host; a host without it has no value, and Docker's line is the reason."""
    return Fact("image", docker.image_inspect(name, docker.IMAGE), _image)


def _image(text: str) -> docker.ImageRecord:
    found = docker.parse_image(text)
    if found is None:
        raise Unreadable(f"no image id: {text.strip()[:80]!r}")
    return found


def parse_ss(text: str) -> list[Listener]:
    """`ss -Hltnp`: LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))."""
    listeners = []
    for line in text.strip().splitlines():
        cells = line.split(maxsplit=5)
        address, _, port = cells[3].rpartition(":") if len(cells) >= 5 else ("", "", "")
        if not port.isdigit():
            raise Unreadable(line.strip()[:120])
        owner = re.search(r'\("([^"]*)",pid=(\d+)', cells[5]) if len(cells) > 5 else None
        host = address.strip("[]").partition("%")[0]
        listeners.append(Listener(host, int(port), owner[1] if owner else None, int(owner[2]) if owner else None))
    return listeners


def taken(listeners: list[Listener], port: int, address: str = "0.0.0.0") -> Listener | None:  # noqa: S104
    """Who would be in the way of a server that binds to that address and port."""
    anywhere = {"0.0.0.0", "*", "::"}  # noqa: S104 - what others bound to
    for one in listeners:
        if one.port == port and (one.address in anywhere or address in anywhere or one.address == address):
            return one
    return None


def parse_limits(text: str) -> Limits:
    """/proc/self/limits, the line `Max locked memory`, in bytes."""
    found = re.search(r"^Max locked memory\s+(\d+|unlimited)\s+(\d+|unlimited)\s+bytes", text, re.MULTILINE)
    if found is None:
        raise Unreadable("no line 'Max locked memory'")
    soft, hard = (UNLIMITED if value == "unlimited" else int(value) for value in found.groups())
    return Limits(soft, hard)


def really_free_bytes(memory: HostMemory, *, unified: bool) -> int:
    """Memory of a host that a process can take now. A GPU with unified memory shares it, and the page cache is not
    given back to it in time: only free counts there. Memory of a GPU's own is not in it; `GPU_LOAD` tells of that.

    Source: docs/sources.md#two-sparks: MemFree is not MemAvailable; drop caches before start.
    """
    return memory.free_bytes if unified else memory.available_bytes


LISTENING: Final = Fact("listening", ["ss", "-Hltnp"], parse_ss)
LIMITS: Final = Fact("limits", ["cat", "/proc/self/limits"], parse_limits)
