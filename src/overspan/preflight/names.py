"""What hosts call themselves and each other by: RDMA's GIDs, the host's own name, the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Final

from overspan.engines.node import address_of
from overspan.inventory.fact import Capture, Fact, Unreadable
from overspan.preflight.fabric import rdma_over_hosts, wanted_hcas
from overspan.preflight.facts import OVER_HOSTS, HostFacts, check, failed, group_check, passed, side_by_side, unreadable
from overspan.schema.finding import Finding

SKEW_S: Final = 30.0
"""Clocks further apart make certificates, tokens and the order of events in logs wrong. A choice."""

SYSTEM_USERS: Final = 1000
"""Below it are root and system users, whose shared memory logind leaves alone. Source: logind.conf(5), login.defs."""

_ROOT: Final = "/sys/class/infiniband"
_MAPPED: Final = "0000:0000:0000:0000:0000:ffff:"


def parse_gids(text: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Of each device, by index: the type and the GID. `grep -rs .` of `gid_attrs/types` and `gids`, file:content."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for line in text.splitlines():
        said = re.match(rf"{_ROOT}/([^/]+)/ports/\d+/(gids|gid_attrs/types)/(\d+):(.*)", line)
        if said is None:
            raise Unreadable(line[:120])
        device, which, index, value = said.groups()
        kind, gid = found.setdefault(device, {}).get(int(index), ("", ""))
        found[device][int(index)] = (kind, value) if which == "gids" else (value, gid)
    return found


def ipv4(gid: str) -> str | None:
    """The IPv4 address that a RoCE GID holds: ...:ffff:0a0a:0a01."""
    if not gid.startswith(_MAPPED):
        return None
    digits = gid.removeprefix(_MAPPED).replace(":", "")
    return ".".join(str(int(digits[at : at + 2], 16)) for at in range(0, 8, 2))


@check("preflight.gid", when=lambda host: host.cuda and rdma_over_hosts(host))
def gids(host: HostFacts) -> list[Finding]:
    """Each RDMA device has a RoCE v2 GID with an IPv4 address. At the index that NCCL is told, if it is told one."""
    names = [name.removeprefix("=").split(":")[0] for name in wanted_hcas(host)]
    names = [name for name in names if re.fullmatch(r"\w[\w-]*", name)]
    places = [f"{_ROOT}/{name}/ports/1/{part}" for name in names for part in ("gid_attrs/types", "gids")]
    seen, capture = host.read(Fact("gids", ["grep", "-rs", ".", *places], parse_gids))
    told = host.setting("NCCL_IB_GID_INDEX")
    return [_gid(host, name, seen.get(name, {}), told[0] if told else None, capture) for name in names]


def _gid(host: HostFacts, name: str, table: dict[int, tuple[str, str]], told: str | None, capture: Capture) -> Finding:
    if not any("RoCE" in kind for kind, _ in table.values()):
        return passed(capture, f"{name}: InfiniBand, whose GIDs need no address")
    right = {index: ipv4(gid) for index, (kind, gid) in table.items() if "v2" in kind and ipv4(gid)}
    index = int(told) if told and told.isdigit() else None
    if right and (index is None or index in right):
        shown = next(iter(right)) if index is None else index
        return passed(capture, f"{name}: RoCE v2 with {right[shown]} at index {shown}")
    has = ", ".join(f"{at} ({address})" for at, address in right.items()) or "none"
    if index is not None:
        cause = f"NCCL_IB_GID_INDEX={told}, and at {name} of {host.name} RoCE v2 with an IPv4 address is at: {has}"
        fix = "take NCCL_IB_GID_INDEX out of env: NCCL 2.21 and newer finds it, and it differs per device"
    else:
        cause = f"{name} of {host.name} has no RoCE v2 GID with an IPv4 address: its interface has none, or lost it"
        fix = host.paste("ip", "-br", "addr") + "   give the interface of each device an address, on every host"
    return failed(capture, f"RoCE v2 with IPv4: {has}", cause=cause, fix=fix)


def without_interface(host: HostFacts) -> bool:
    """Whether Gloo is left to find its address by the host's own name."""
    return host.several and any(not spec.env.get("GLOO_SOCKET_IFNAME") for spec in host.specs)


@check("preflight.hostname", when=without_interface, cost="two commands")
def own_name(host: HostFacts) -> Finding:
    """Where Gloo is told no interface: the host's name is not a loopback address."""
    name, _ = host.read(Fact("hostname", ["hostname"], str.strip))
    seen, capture = host.look(Fact("own_name", ["getent", "hosts", name], str.split))
    if not seen.value:
        return unreadable(capture, seen.why or f"{name} is in no table of names")
    address = seen.value[0]
    if not address.startswith("127.") and address != "::1":
        return passed(capture, f"{name} is {address}")
    cause = f"{name} is {address} on {host.name}, and no GLOO_SOCKET_IFNAME is set: Gloo gives that to the others"
    fix = f"fabric.interface for host {host.name} in the inventory, or "
    fix += f"{address_of(host.entry)} for its name in /etc/hosts"
    return failed(capture, f"{name} is {address}", cause=cause, fix=fix)


@group_check("preflight.clock", when=OVER_HOSTS)
def clocks(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """The hosts' clocks agree."""
    asked = side_by_side(hosts, _ahead_s)
    offsets = sorted(ahead for _, (ahead, _, _) in asked if ahead is not None)
    for host, (ahead, why, capture) in asked:
        if ahead is None:
            yield host.name, unreadable(capture, why)
            continue
        apart = abs(ahead - offsets[len(offsets) // 2])
        cause = f"the clock of {host.name} is {apart:.0f} s from the others'"
        fix = host.paste("sudo", "timedatectl", "set-ntp", "true")
        agrees = passed(capture, "the clock agrees with the others")
        wrong = failed(capture, cause, cause=cause, fix=fix, severity="warning")
        yield host.name, agrees if apart <= SKEW_S else wrong


def _ahead_s(host: HostFacts) -> tuple[float | None, str, Capture]:
    """Seconds by which a host's clock is ahead of this machine's, or why that is not known."""
    before = time.time()
    seen, capture = host.look(Fact("clock", ["date", "+%s"], _number))
    return None if seen.value is None else seen.value - (before + time.time()) / 2, seen.why, capture


def _number(text: str) -> float:
    if not text.strip().isdigit():
        raise Unreadable(text.strip()[:80])
    return float(text)


@check("preflight.removeipc", when=lambda host: not host.docker and host.entry.ssh is not None)
def keeps_ipc(host: HostFacts) -> Finding:
    """Without containers, over ssh: shared memory outlives the session. systemd removes that of a user whose
    last session ends, and processes lose it while they run."""
    user, capture = host.look(Fact("uid", ["id", "-u"], _number))
    if user.value is not None and user.value < SYSTEM_USERS:
        return passed(capture, "a system user keeps its shared memory")
    places = ["/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d"]
    seen, capture = host.look(Fact("removeipc", ["grep", "-rihs", "^RemoveIPC", *places], str.split))
    if seen.value and seen.value[-1].lower() in {"removeipc=no", "removeipc=false", "removeipc=0"}:
        return passed(capture, seen.value[-1])
    if capture.missing is not None:
        return unreadable(capture, capture.missing)
    cause = f"logind of {host.name} removes shared memory when its user's last session ends: NCCL and torch lose it"
    fix = host.paste(
        "sudo", "sh", "-c", "echo RemoveIPC=no >> /etc/systemd/logind.conf; systemctl restart systemd-logind"
    )
    return failed(capture, "RemoveIPC is not no", cause=cause, fix=fix, severity="warning")
