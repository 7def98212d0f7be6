"""A bridge in this machine's own namespace and one veth pair a host; each host's end is its `eth0`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from testbed.commands import sh

NETNS = Path("/run/netns")


def bridge_of(bed: str) -> str:
    """The bridge's name; interface names have at most 15 characters."""
    return f"os{bed}br"


def link_of(bed: str, number: int) -> str:
    """The outer end of a host's veth pair."""
    return f"os{bed}v{number}"


def make_bridge(bed: str, address: str) -> None:
    """A bridge with an address: the place that `overspan` runs on when it reaches the hosts from outside."""
    sh(["ip", "link", "add", bridge_of(bed), "type", "bridge"])
    sh(["ip", "address", "add", f"{address}/24", "dev", bridge_of(bed)])
    sh(["ip", "link", "set", bridge_of(bed), "up"])


def make_host(bed: str, number: int, netns: str, address: str, gateway: str) -> None:
    """A namespace on the bridge."""
    link = link_of(bed, number)
    sh(["ip", "netns", "add", netns])
    sh(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns])
    sh(["ip", "link", "set", link, "master", bridge_of(bed), "up"])
    sh(["ip", "-n", netns, "link", "set", "lo", "up"])
    sh(["ip", "-n", netns, "address", "add", f"{address}/24", "dev", "eth0"])
    sh(["ip", "-n", netns, "link", "set", "eth0", "up"])
    sh(["ip", "-n", netns, "route", "add", "default", "via", gateway])


def links_of(bed: str) -> list[str]:
    """The interfaces of a bed that are there, by their names."""
    return [link["ifname"] for link in json.loads(sh(["ip", "-j", "link"])) if link["ifname"].startswith(f"os{bed}")]


def namespaces_of(bed: str) -> list[str]:
    """The named network namespaces of a bed that are there."""
    return sorted(path.name for path in NETNS.glob(f"os{bed}-*"))


def processes_in(netns: str) -> list[int]:
    """Every process in a namespace, by this machine's ids. Docker's `--network host` keeps containers in it too."""
    return [int(pid) for pid in sh(["ip", "netns", "pids", netns], check=False).split()]


def addresses_here() -> set[str]:
    """Every address of this machine."""
    return {
        address["local"]
        for link in json.loads(sh(["ip", "-j", "address"]))
        for address in link["addr_info"]
        if "local" in address
    }


def remove(bed: str, namespaces: Sequence[str]) -> None:
    """Delete what `make_bridge` and `make_host` made, whatever of it is there."""
    for netns in namespaces:
        sh(["ip", "netns", "delete", netns])
    for link in links_of(bed):
        sh(["ip", "link", "delete", link], check=False)  # a veth's other end may have taken it along


def set_down(bed: str, number: int) -> None:
    """Pull a host's cable, at the bridge's end."""
    sh(["ip", "link", "set", link_of(bed, number), "down"])


def set_up(bed: str, number: int) -> None:
    """Put a host's cable back."""
    sh(["ip", "link", "set", link_of(bed, number), "up"])


def set_mtu(netns: str, size: int) -> None:
    """The MTU of a host's own interface, in bytes."""
    sh(["ip", "-n", netns, "link", "set", "eth0", "mtu", str(size)])
