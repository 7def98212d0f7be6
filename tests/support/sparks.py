"""Captured outputs of DGX Sparks, composed per case; sources in tests/inventory/README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PORTS = {
    "enp1s0f0np0": "rocep1s0f0",
    "enp1s0f1np1": "rocep1s0f1",
    "enP2p1s0f0np0": "roceP2p1s0f0",
    "enP2p1s0f1np1": "roceP2p1s0f1",
}
CABLE_0 = ("enp1s0f0np0", "enP2p1s0f0np0")
CABLE_1 = ("enp1s0f1np1", "enP2p1s0f1np1")
LAN, WIFI = "enP7s7", "wlP9s9"
CAPTURES = Path(__file__).parents[1] / "inventory"


def interface(name: str, addresses: Sequence[str], *, mtu: int = 1500, up: bool = True) -> dict[str, Any]:
    """One object of `ip -j addr`, with the keys that iproute2 6.1 writes."""
    info = [
        {"family": "inet6" if ":" in address else "inet", "local": address.split("/")[0],
         "prefixlen": int(address.split("/")[1]), "scope": "global", "label": name,
         "valid_life_time": 4294967295, "preferred_life_time": 4294967295}
        for address in addresses
    ]  # fmt: skip
    flags = ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"] if up else ["NO-CARRIER", "BROADCAST", "MULTICAST", "UP"]
    return {"ifindex": 2, "ifname": name, "flags": flags, "mtu": mtu, "qdisc": "mq",
            "operstate": "UP" if up else "DOWN", "group": "default", "txqlen": 1000, "link_type": "ether",
            "address": "4c:bb:47:00:00:01", "broadcast": "ff:ff:ff:ff:ff:ff", "addr_info": info}  # fmt: skip


def ip_addr(addresses: Mapping[str, Sequence[str]], up: Sequence[str], mtu: Mapping[str, int]) -> str:
    names = [*PORTS, LAN, WIFI]
    lo = interface("lo", ["127.0.0.1/8", "::1/128"], mtu=65536)
    bridge = interface("docker0", ["172.17.0.1/16"])
    shown = [interface(n, addresses.get(n, []), mtu=mtu.get(n, 1500), up=n in up or n in addresses) for n in names]
    return json.dumps([lo, *shown, bridge])


def net_sysfs(up: Sequence[str]) -> str:
    root = "/sys/class/net"
    lines = [f"{root}/{name}/device" for name in [*PORTS, LAN, WIFI]]
    lines += [f"{root}/{WIFI}/wireless", f"{root}/{WIFI}/phy80211"]
    lines += [f"{root}/{name}/speed:{200000 if name in PORTS else 10000}" for name in up if name != WIFI]
    return "\n".join(lines) + "\n"


def ibdev2netdev(up: Sequence[str]) -> str:
    return "".join(f"{device} port 1 ==> {name} ({'Up' if name in up else 'Down'})\n" for name, device in PORTS.items())


def rdma_sysfs(up: Sequence[str]) -> str:
    root = "/sys/class/infiniband"
    lines = []
    for name, device in PORTS.items():
        state = "4: ACTIVE" if name in up else "1: DOWN"
        lines += [f"{root}/{device}/ports/1/state:{state}", f"{root}/{device}/ports/1/link_layer:Ethernet"]
        lines += [f"{root}/{device}/device/net/{name}"]
    return "\n".join(lines) + "\n"


def write_spark(
    folder: Path,
    name: str,
    addresses: Mapping[str, Sequence[str]],
    *,
    up: Sequence[str] = CABLE_1,
    mtu: Mapping[str, int] | None = None,
    tool: bool = True,
) -> None:
    """A folder as `detect --save` writes it. `tool`: whether ibdev2netdev is installed."""
    place = folder / name
    place.mkdir(parents=True)
    alive = [*up, *(port for port in (LAN, WIFI) if port in addresses)]
    jumbo = dict.fromkeys(PORTS, 9000) | dict(mtu or {})
    outputs = {
        "uname": f"{name} 6.11.0-1016-nvidia aarch64\n",
        "ip_addr": ip_addr(addresses, alive, jumbo),
        "net_sysfs": net_sysfs(alive),
        "rdma_sysfs": rdma_sysfs(up),
        "df": "Filesystem     1-blocks         Used    Available Capacity Mounted on\n"
        "/dev/nvme0n1p2 3936818806784 412316860416 3324425306112 12% /\n",
    }
    for fact, case in {"os_release": "dgx_os", "lscpu": "gb10", "meminfo": "gb10", "nvidia_smi": "gb10",
                       "docker_info": "nvidia"}.items():  # fmt: skip
        outputs[fact] = (CAPTURES / fact / f"{case}.txt").read_text()
    if tool:
        outputs["ibdev2netdev"] = ibdev2netdev(up)
    else:
        _missing(place, "ibdev2netdev")
    _missing(place, "sinfo")
    for fact, text in outputs.items():
        (place / f"{fact}.txt").write_text(text)


def _missing(place: Path, fact: str) -> None:
    meta = {"argv": [fact], "missing": f"{fact} is not installed on {place.name}"}
    if fact == "sinfo":
        meta["argv"] = ["sinfo", "-h", "-o", "%P|%a|%l|%D|%G"]
    (place / f"{fact}.json").write_text(json.dumps(meta))
    (place / f"{fact}.txt").write_text("")
