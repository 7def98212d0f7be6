"""Sockets, NCCL's devices, UCX's devices and storage ports are chosen apart, each with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.engines.node import fabric_env
from overspan.inventory.captured import replayed
from overspan.schema.inventory import Fabric, Host, Inventory
from support.sparks import CABLE_0, LAN, interface, write_spark

A, A_TWIN = "enp1s0f0np0", "enP2p1s0f0np0"


def rack(folder: Path, ports: dict[str, tuple[str, str, str]], *, shared: dict[str, str], mtu: int = 9000) -> Inventory:
    """Two nodes. `ports`: RDMA device -> its link layer, its rate and its interface ('' for none)."""
    for n in (1, 2):
        write_spark(folder, f"node{n}", {}, up=(), tool=False)
        lines, net = [], []
        shown = [interface(name, [f"{net_of}.{n}/24"], mtu=mtu) for name, net_of in shared.items()]
        shown += [interface(name, [], mtu=mtu) for *_, name in ports.values() if name and name not in shared]
        for device, (layer, rate, name) in ports.items():
            root = f"/sys/class/infiniband/{device}"
            lines += [f"{root}/ports/1/state:4: ACTIVE", f"{root}/ports/1/link_layer:{layer}"]
            lines += [f"{root}/ports/1/rate:{rate}"] + ([f"{root}/device/net/{name}"] if name else [])
            net += [f"/sys/class/net/{name}/device"] if name else []
        (folder / f"node{n}" / "rdma_sysfs.txt").write_text("\n".join(lines) + "\n")
        (folder / f"node{n}" / "net_sysfs.txt").write_text("\n".join([*net, "/sys/class/net/eno1/speed:25000"]) + "\n")
        (folder / f"node{n}" / "ip_addr.txt").write_text(json.dumps(shown))
    return replayed(folder)


def fabric_of(inventory: Inventory, index: int = 0) -> Fabric:
    found = inventory.hosts[index].fabric
    assert found is not None
    return found


NDR = ("InfiniBand", "400 Gb/sec (4X NDR)", "")


def test_infiniband_for_the_data_and_roce_for_storage_are_not_mixed(tmp_path: Path) -> None:
    ports: dict[str, Any] = {f"mlx5_{index}": NDR for index in range(8)}
    ports |= {
        "mlx5_10": ("Ethernet", "200 Gb/sec (4X HDR)", "ens10"),
        "mlx5_11": ("Ethernet", "200 Gb/sec (4X HDR)", "ens11"),
    }
    found = rack(tmp_path, ports, shared={"eno1": "10.0.0", "ens10": "10.8.0", "ens11": "10.9.0"})
    fabric = fabric_of(found)
    assert fabric.hcas == [f"mlx5_{index}" for index in range(8)]
    assert fabric.ucx == [f"mlx5_{index}:1" for index in range(8)]
    assert any(why.startswith("mlx5_10, mlx5_11: RoCE, left to storage") for why in fabric.why)
    env = fabric_env(found.hosts[0], cuda=True)
    assert env["NCCL_IB_HCA"] == "=mlx5_0,mlx5_1,mlx5_2,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_7", (
        "mlx5_1 alone is mlx5_10 too"
    )
    assert env["UCX_NET_DEVICES"] == ",".join(fabric.ucx)
    assert env["NCCL_SOCKET_IFNAME"] == env["GLOO_SOCKET_IFNAME"] == fabric.interface == "eno1"


def test_slower_infiniband_is_left_to_storage(tmp_path: Path) -> None:
    ports: dict[str, Any] = {f"mlx5_{index}": NDR for index in range(4)}
    fabric = fabric_of(
        rack(tmp_path, ports | {"mlx5_4": ("InfiniBand", "100 Gb/sec (4X EDR)", "")}, shared={"eno1": "10.0.0"})
    )
    assert fabric.hcas == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    assert any("mlx5_4" in why and "slower" in why for why in fabric.why)


def test_roce_for_the_data_and_one_infiniband_port_for_storage(tmp_path: Path) -> None:
    ports: dict[str, Any] = {f"mlx5_{n}": ("Ethernet", "400 Gb/sec (4X NDR)", f"ens{n}") for n in range(8)}
    shared = {f"ens{n}": f"10.1.{n}" for n in range(8)} | {"eno1": "10.0.0"}
    fabric = fabric_of(rack(tmp_path, ports | {"mlx5_8": NDR}, shared=shared))
    assert fabric.hcas == [f"mlx5_{index}" for index in range(8)]
    assert any(why.startswith("mlx5_8: InfiniBand, left to storage") for why in fabric.why)


def stacked(folder: Path, name: str, members: list[str], **keys: Any) -> Inventory:
    """Two Sparks whose first cable carries a VLAN or a bond, as iproute2 shows it."""
    for n in (1, 2):
        write_spark(folder, f"spark{n}", {LAN: [f"10.0.0.{n}/24"]}, up=CABLE_0)
        file = folder / f"spark{n}" / "ip_addr.txt"
        rows = json.loads(file.read_text())
        upper = interface(name, [f"10.100.0.{n}/24"], mtu=9000) | keys
        if "link" not in keys:
            upper["flags"] = [*upper["flags"], "MASTER"]
            rows = [row | {"master": name} if row["ifname"] in members else row for row in rows]
        file.write_text(json.dumps([*rows, upper]))
    return replayed(folder)


@pytest.mark.parametrize(
    ("name", "members", "keys", "hcas"),
    [
        (f"{A}.100", [], {"link": A}, ["rocep1s0f0"]),
        ("bond0", [A, A_TWIN], {}, ["rocep1s0f0", "roceP2p1s0f0"]),
    ],
    ids=["vlan", "bond"],
)
def test_a_vlan_and_a_bond_use_the_rdma_ports_beneath(
    name: str, members: list[str], keys: dict[str, str], hcas: list[str], tmp_path: Path
) -> None:
    found = stacked(tmp_path, name, members, **keys)
    fabric = fabric_of(found)
    assert (fabric.interface, fabric.hcas, fabric.ucx) == (name, hcas, [f"{device}:1" for device in hcas])
    assert found.warnings == []
    assert next(link.kind for link in found.links if link.network == "10.100.0.0/24") == "rdma"


def test_a_bridge_is_no_bond(tmp_path: Path) -> None:
    found = stacked(tmp_path, "br0", [A], link="nothing")
    assert fabric_of(found).interface != "br0" or fabric_of(found).hcas == []


def test_ucx_gets_what_it_can_use_also_of_an_inventory_written_by_hand() -> None:
    def env(fabric: Fabric) -> dict[str, str]:
        return fabric_env(Host(name="a", memory_bytes=1, fabric=fabric), cuda=True)

    hand = Fabric(interface="eth0", address="10.0.0.1", hcas=["=mlx5_0", "mlx5_1:2"])
    assert env(hand)["UCX_NET_DEVICES"] == "mlx5_0:1,mlx5_1:2"
    assert env(hand.with_(ucx=["eth0"]))["UCX_NET_DEVICES"] == "eth0"
    assert env(hand.with_(hcas=[]))["UCX_NET_DEVICES"] == "eth0", "nothing is known of RDMA there"
    assert (
        fabric_env(Host(name="a", memory_bytes=1, fabric=hand), cuda=True, ucx_rdma=False)["UCX_NET_DEVICES"] == "eth0"
    )
