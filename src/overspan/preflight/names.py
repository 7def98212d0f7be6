"""What hosts call themselves and each other by: RDMA's GIDs, the host's own name, the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.engines.node import address_of
from overspan.inventory.fact import Capture, Fact, Seen, Unreadable
from overspan.preflight.fabric import wanted_hcas
from overspan.preflight.site import Site, Verdict, bad, good, unknown

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


def gids(site: Site) -> list[Verdict]:
    """Each RDMA device of RoCE has a v2 GID with an IPv4 address, at the index that NCCL is told if it is told one."""
    names = [name.removeprefix("=").split(":")[0] for name in wanted_hcas(site)]
    names = [name for name in names if re.fullmatch(r"\w[\w-]*", name)]
    places = [f"{_ROOT}/{name}/ports/1/{part}" for name in names for part in ("gid_attrs/types", "gids")]
    seen, capture = site.look(Fact("gids", ["grep", "-rs", ".", *places], parse_gids))
    if seen.value is None:
        return [unknown(capture, seen.why)]
    told = site.setting("NCCL_IB_GID_INDEX")
    return [_gid(site, name, seen.value.get(name, {}), told[0] if told else None, capture) for name in names]


def _gid(site: Site, name: str, table: dict[int, tuple[str, str]], told: str | None, capture: Capture) -> Verdict:
    if not any("RoCE" in kind for kind, _ in table.values()):
        return good(capture, f"{name}: InfiniBand, whose GIDs need no address")
    right = {index: ipv4(gid) for index, (kind, gid) in table.items() if "v2" in kind and ipv4(gid)}
    index = int(told) if told and told.isdigit() else None
    if right and (index is None or index in right):
        shown = next(iter(right)) if index is None else index
        return good(capture, f"{name}: RoCE v2 with {right[shown]} at index {shown}")
    has = ", ".join(f"{at} ({address})" for at, address in right.items()) or "none"
    if index is not None:
        cause = f"NCCL_IB_GID_INDEX={told}, and at {name} of {site.name} RoCE v2 with an IPv4 address is at: {has}"
        fix = "take NCCL_IB_GID_INDEX out of env: NCCL 2.21 and newer finds it, and it differs per device"
    else:
        cause = f"{name} of {site.name} has no RoCE v2 GID with an IPv4 address: its interface has none, or lost it"
        fix = site.paste("ip", "-br", "addr") + "   give the interface of each device an address, on every host"
    return bad(capture, f"RoCE v2 with IPv4: {has}", cause=cause, fix=fix)


def without_interface(site: Site) -> bool:
    """Whether Gloo is left to find its address by the host's own name."""
    return site.several and any(not spec.env.get("GLOO_SOCKET_IFNAME") for spec in site.specs)


def own_name(site: Site) -> list[Verdict]:
    """The host's own name is not an address that only it can reach."""
    named, capture = site.look(Fact("hostname", ["hostname"], str.strip))
    if named.value is None:
        return [unknown(capture, named.why)]
    seen, capture = site.look(Fact("own_name", ["getent", "hosts", named.value], str.split))
    if not seen.value:
        return [unknown(capture, seen.why or f"{named.value} is in no table of names")]
    address = seen.value[0]
    if not address.startswith("127.") and address != "::1":
        return [good(capture, f"{named.value} is {address}")]
    cause = (
        f"{named.value} is {address} on {site.name}, and no GLOO_SOCKET_IFNAME is set: Gloo gives that to the others"
    )
    fix = (
        f"fabric.interface for host {site.name} in the inventory, or {address_of(site.host)} for its name in /etc/hosts"
    )
    return [bad(capture, f"{named.value} is {address}", cause=cause, fix=fix)]


def clocks(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """The hosts' clocks agree."""
    with ThreadPoolExecutor(len(sites)) as pool:
        asked = list(pool.map(_offset, sites))
    offsets = {site.name: offset for site, (offset, _, _) in zip(sites, asked, strict=True) if offset is not None}
    middle = sorted(offsets.values())[len(offsets) // 2] if offsets else 0.0
    verdicts = []
    for site, (offset, seen, capture) in zip(sites, asked, strict=True):
        if offset is None:
            verdicts.append((site.name, unknown(capture, seen.why)))
        elif abs(offset - middle) <= SKEW_S:
            verdicts.append((site.name, good(capture, "the clock agrees with the others")))
        else:
            cause = f"the clock of {site.name} is {abs(offset - middle):.0f} s from the others'"
            fix = site.paste("sudo", "timedatectl", "set-ntp", "true")
            verdicts.append((site.name, bad(capture, cause, cause=cause, fix=fix, severity="warning")))
    return verdicts


def _offset(site: Site) -> tuple[float | None, Seen[float], Capture]:
    before = time.time()
    seen, capture = site.look(Fact("clock", ["date", "+%s"], _number))
    return (None if seen.value is None else seen.value - (before + time.time()) / 2), seen, capture


def _number(text: str) -> float:
    if not text.strip().isdigit():
        raise Unreadable(text.strip()[:80])
    return float(text)


def keeps_ipc(site: Site) -> list[Verdict]:
    """systemd does not remove the shared memory of a user whose last session ends: processes lose it while they run."""
    user, capture = site.look(Fact("uid", ["id", "-u"], _number))
    if user.value is not None and user.value < SYSTEM_USERS:
        return [good(capture, "a system user keeps its shared memory")]
    places = ["/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d"]
    seen, capture = site.look(Fact("removeipc", ["grep", "-rihs", "^RemoveIPC", *places], str.split))
    if seen.value and seen.value[-1].lower() in {"removeipc=no", "removeipc=false", "removeipc=0"}:
        return [good(capture, seen.value[-1])]
    if capture.missing is not None:
        return [unknown(capture, capture.missing)]
    cause = f"logind of {site.name} removes shared memory when its user's last session ends: NCCL and torch lose it"
    fix = site.paste(
        "sudo", "sh", "-c", "echo RemoveIPC=no >> /etc/systemd/logind.conf; systemctl restart systemd-logind"
    )
    return [bad(capture, "RemoveIPC is not no", cause=cause, fix=fix, severity="warning")]
