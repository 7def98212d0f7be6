"""What is chosen for groups of hosts, from replayed captures: no network, no process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overspan.inventory.captured import as_yaml, replayed
from overspan.schema.errors import HostUnreachable, InputError
from overspan.schema.inventory import Host, Inventory
from overspan.schema.yamlio import make, read_yaml
from support.sparks import CABLE_0, CABLE_1, CAPTURES, LAN, WIFI, net_sysfs, write_spark

A, B = "enp1s0f0np0", "enp1s0f1np1"
TWIN = "enP2p1s0f1np1"


def fabric(inventory: Inventory, name: str) -> tuple[str, str, list[str]]:
    host = next(host for host in inventory.hosts if host.name == name)
    assert host.fabric is not None
    return host.fabric.interface, host.fabric.address, host.fabric.hcas


def said(inventory: Inventory, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in inventory.warnings)


def test_a_pair_with_one_cable(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.10.10.{n}/24"], LAN: [f"192.168.1.{n}/24"]})
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1") == (B, "10.10.10.1", ["rocep1s0f1", "roceP2p1s0f1"])
    assert fabric(pair, "spark2") == (B, "10.10.10.2", ["rocep1s0f1", "roceP2p1s0f1"])
    assert (pair.launcher, pair.device, pair.warnings, pair.env) == ("docker", "cuda", [], {})
    assert {link.network: link.kind for link in pair.links} == {"10.10.10.0/24": "rdma", "192.168.1.0/24": "ethernet"}
    assert "1 RDMA port up on both hosts: a pair joined by cable, or over a switch" in pair.why["fabric"]
    spark = pair.hosts[0]
    (gpu,) = spark.gpus
    assert (gpu.kind, gpu.unified_memory, gpu.memory_bytes) == ("gb10", True, spark.memory_bytes)
    assert (spark.arch, spark.cores, spark.container is not None and spark.container.gpu) == ("aarch64", 20, True)
    twins = {nic.interface: nic.twin for nic in spark.nics if nic.rdma_device}
    assert twins[B] == TWIN and twins[TWIN] == B and len(twins) == 4
    assert spark.fabric is not None and any("twin" in line for line in spark.fabric.why)
    assert "GID_INDEX" not in as_yaml(pair)


def test_without_ibdev2netdev_sysfs_says_the_same(tmp_path: Path) -> None:
    for kind, tool in (("tool", True), ("sysfs", False)):
        for n in (1, 2):
            write_spark(tmp_path / kind, f"spark{n}", {B: [f"10.10.10.{n}/24"]}, tool=tool)
    with_tool, with_sysfs = replayed(tmp_path / "tool"), replayed(tmp_path / "sysfs")
    assert [host.fabric for host in with_tool.hosts] == [host.fabric for host in with_sysfs.hosts]
    assert with_sysfs.warnings == []


def test_each_host_has_names_of_its_own(tmp_path: Path) -> None:
    write_spark(tmp_path, "spark1", {A: ["10.0.0.1/24"]}, up=CABLE_0)
    write_spark(tmp_path, "spark2", {B: ["10.0.0.2/24"]}, up=CABLE_1)
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1") == (A, "10.0.0.1", ["rocep1s0f0", "roceP2p1s0f0"])
    assert fabric(pair, "spark2") == (B, "10.0.0.2", ["rocep1s0f1", "roceP2p1s0f1"])


def test_link_local_addresses_do(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"169.254.7.{n}/16"], LAN: [f"192.168.1.{n}/24"]})
    assert fabric(replayed(tmp_path), "spark1")[:2] == (B, "169.254.7.1")


def test_the_first_twin_is_preferred_where_both_have_addresses(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {TWIN: [f"10.0.1.{n}/24"], B: [f"10.0.2.{n}/24"]})
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1")[0] == B
    assert pair.warnings == []


def test_twins_on_one_subnet_are_warned_of(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {TWIN: [f"10.0.1.{n + 4}/24"], B: [f"10.0.1.{n}/24"]})
    pair = replayed(tmp_path)
    assert said(pair, "spark2", B, TWIN, "10.0.1.0/24", "different subnets")
    assert fabric(pair, "spark1")[0] == B


def test_two_cables_give_four_hcas(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {A: [f"10.0.1.{n}/24"], B: [f"10.0.2.{n}/24"]}, up=CABLE_0 + CABLE_1)
    pair = replayed(tmp_path)
    assert len(fabric(pair, "spark1")[2]) == 4
    assert "2 RDMA ports up on both hosts" in pair.why["fabric"]


def test_a_second_cable_without_an_address_is_warned_of(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.0.2.{n}/24"]}, up=CABLE_0 + CABLE_1)
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1")[2] == ["rocep1s0f1", "roceP2p1s0f1"]
    assert said(pair, "spark1", A, "has no address")


def test_a_ring_of_three(tmp_path: Path) -> None:
    lan = [{LAN: [f"192.168.1.{n}/24"]} for n in (1, 2, 3)]
    cables = [
        {A: ["10.0.12.1/24"], B: ["10.0.31.1/24"]},
        {A: ["10.0.23.2/24"], B: ["10.0.12.2/24"]},
        {A: ["10.0.31.3/24"], B: ["10.0.23.3/24"]},
    ]
    for n in (0, 1, 2):
        write_spark(tmp_path, f"spark{n + 1}", lan[n] | cables[n], up=CABLE_0 + CABLE_1)
    ring = replayed(tmp_path)
    assert fabric(ring, "spark3")[:2] == (LAN, "192.168.1.3")
    assert len(fabric(ring, "spark3")[2]) == 4
    assert ring.why["fabric"].startswith("a ring")
    assert ring.env == {"NCCL_IB_SUBNET_AWARE_ROUTING": "1", "NCCL_IB_MERGE_NICS": "0", "NCCL_NET_PLUGIN": "none"}
    assert "env" in ring.why and ring.hosts[0].fabric is not None and ring.hosts[0].fabric.ucx == [LAN]
    assert not said(ring, "slower")


def test_four_over_a_switch(tmp_path: Path) -> None:
    for n in range(1, 5):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.0.2.{n}/24"], LAN: [f"192.168.1.{n}/24"]})
    four = replayed(tmp_path)
    assert four.why["fabric"] == "one RDMA network joins all 4 hosts: a switch"
    assert {fabric(four, f"spark{n}")[0] for n in range(1, 5)} == {B}
    assert four.env == {}


@pytest.mark.parametrize(("port", "kind"), [(LAN, "Ethernet"), (WIFI, "Wi-Fi")])
def test_without_a_cable_the_slowness_is_told(tmp_path: Path, port: str, kind: str) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {port: [f"192.168.1.{n}/24"]}, up=())
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1") == (port, "192.168.1.1", [])
    assert said(pair, kind, "10-20x slower")


def test_wire_before_wifi(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {WIFI: [f"10.7.0.{n}/24"], LAN: [f"192.168.1.{n}/24"]}, up=())
        (tmp_path / f"spark{n}" / "net_sysfs.txt").write_text(net_sysfs(up=()))  # the driver tells no speed
    assert fabric(replayed(tmp_path), "spark1")[0] == LAN


def test_an_mtu_that_differs_is_warned_of(tmp_path: Path) -> None:
    write_spark(tmp_path, "spark1", {B: ["10.0.2.1/24"]})
    write_spark(tmp_path, "spark2", {B: ["10.0.2.2/24"]}, mtu={B: 1500})
    assert said(replayed(tmp_path), "MTU differs on 10.0.2.0/24", "on spark1 has 9000", "on spark2 has 1500")


def test_a_small_mtu_on_rdma_is_warned_of(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.0.2.{n}/24"]}, mtu={B: 1500})
    assert said(replayed(tmp_path), "MTU of 10.0.2.0/24 is 1500", "9000")


def test_an_address_on_both_hosts_joins_nothing(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: ["10.0.2.1/24"], LAN: [f"192.168.1.{n}/24"]})
    pair = replayed(tmp_path)
    assert fabric(pair, "spark1")[0] == LAN
    assert [link.network for link in pair.links] == ["192.168.1.0/24"]


def test_one_machine_named_twice_is_said_and_the_rest_is_printed(tmp_path: Path) -> None:
    for name in ("spark1", "10.0.2.1"):
        write_spark(tmp_path, name, {B: ["10.0.2.1/24"]})
    twice = replayed(tmp_path)
    assert said(twice, "spark1", "10.0.2.1", "one machine named twice")
    assert said(twice, "spark1: no interface is up with an address of its own")
    assert all(host.fabric is None for host in twice.hosts)


def test_hosts_that_share_no_network(tmp_path: Path) -> None:
    write_spark(tmp_path, "spark1", {LAN: ["192.168.1.1/24"]}, up=())
    write_spark(tmp_path, "spark2", {LAN: ["192.168.2.1/24"]}, up=())
    pair = replayed(tmp_path)
    assert said(pair, "no network joins all hosts")
    assert fabric(pair, "spark2")[:2] == (LAN, "192.168.2.1")


def test_one_host_alone_needs_no_fabric(tmp_path: Path) -> None:
    write_spark(tmp_path, "spark1", {B: ["10.0.2.1/24"]})
    alone = replayed(tmp_path)
    assert (alone.launcher, alone.device, alone.hosts[0].fabric) == ("local", "cuda", None)


def test_the_yaml_can_be_read_again_and_says_why(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.10.10.{n}/24"]})
    pair = replayed(tmp_path)
    text = as_yaml(pair)
    data, places = read_yaml(text, "pair.yaml")
    assert make(Inventory, data, "pair.yaml", places) == pair
    assert "# 121.6 GiB" in text and "# 200 Gb/s" in text
    assert "both HCAs of each port go to NCCL" in text


def test_an_edited_choice_is_taken(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.10.10.{n}/24"]})
    text = as_yaml(replayed(tmp_path)).replace("launcher: docker", "launcher: slurm")
    data, places = read_yaml(text, "pair.yaml")
    assert make(Inventory, data, "pair.yaml", places).launcher == "slurm"


def test_slurm_is_told_and_the_launcher_stays(tmp_path: Path) -> None:
    write_spark(tmp_path, "login1", {B: ["10.0.2.1/24"]})
    (tmp_path / "login1" / "sinfo.json").unlink()
    (tmp_path / "login1" / "sinfo.txt").write_text((CAPTURES / "sinfo" / "two_partitions.txt").read_text())
    found = replayed(tmp_path)
    assert found.slurm is not None and found.slurm.partition == "batch"
    assert found.launcher == "local" and "launcher: slurm" in found.why["slurm"]


def test_infiniband_without_addresses_goes_to_nccl(tmp_path: Path) -> None:
    """A server whose HCAs have no IPoIB: sockets over Ethernet, every active InfiniBand port to NCCL."""
    for n in (1, 2):
        write_spark(tmp_path, f"node{n}", {LAN: [f"192.168.1.{n}/24"]}, up=(), tool=False)
        text = (CAPTURES / "rdma_sysfs" / "infiniband_server.txt").read_text()
        (tmp_path / f"node{n}" / "rdma_sysfs.txt").write_text(text)
    pair = replayed(tmp_path)
    assert fabric(pair, "node1") == (LAN, "192.168.1.1", ["mlx5_0", "mlx5_1"])
    assert not said(pair, "slower")


# The inventory as a whole. To accept a change: UPDATE_GOLDEN=1 pytest tests/inventory


def test_the_inventory_of_two_sparks_is_the_golden_one(tmp_path: Path) -> None:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.10.10.{n}/24"], LAN: [f"192.168.1.{n}/24"]})
    text = as_yaml(replayed(tmp_path)).replace(str(tmp_path), "CAPTURED")
    golden = CAPTURES / "two_sparks.golden.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


# Damaged folders


def lose(host: Path, fact: str) -> None:
    for end in (".txt", ".json"):
        (host / (fact + end)).unlink(missing_ok=True)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for n in (1, 2):
        write_spark(tmp_path, f"spark{n}", {B: [f"10.10.10.{n}/24"]})
    return tmp_path


@pytest.mark.parametrize("fact", ["uname", "lscpu", "nvidia_smi", "ip_addr", "net_sysfs", "docker_info", "df"])
def test_a_fact_that_was_not_captured_is_unknown_and_said_so(pair: Path, fact: str) -> None:
    lose(pair / "spark2", fact)
    inventory = replayed(pair)
    host: Host = inventory.hosts[1]
    assert fact in host.unknown and said(inventory, "spark2", fact, "not known")
    assert host.arch == ("" if fact == "uname" else "aarch64"), "a machine that is not known is not taken for an x86-64"
    assert inventory.hosts[0].unknown == {}


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"{", b"[]", b"null", b'{"argv": 3}'])
def test_a_damaged_meta_file_is_an_unknown_fact(pair: Path, damage: bytes) -> None:
    (pair / "spark2" / "nvidia_smi.json").write_bytes(damage)
    inventory = replayed(pair)
    assert "nvidia_smi" in inventory.hosts[1].unknown
    assert inventory.device == "cuda" and "spark2 has, or may have, GPUs" in inventory.why["device"]


def test_a_host_without_memory_is_left_out_and_the_rest_is_printed(pair: Path) -> None:
    (pair / "spark2" / "meminfo.txt").write_text("MemTotal: many\n")
    inventory = replayed(pair)
    assert [host.name for host in inventory.hosts] == ["spark1"]
    assert inventory.unreachable[0].name == "spark2" and "memory" in inventory.unreachable[0].what


def test_nothing_usable_at_all(pair: Path, tmp_path: Path) -> None:
    for host in ("spark1", "spark2"):
        lose(pair / host, "meminfo")
    with pytest.raises(HostUnreachable, match="its memory is not known"):
        replayed(pair)
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(InputError):
            replayed(wrong)


def test_a_damaged_index_is_said_and_the_folders_are_read(pair: Path) -> None:
    (pair / "hosts.json").write_text("{{{")
    inventory = replayed(pair)
    assert [host.name for host in inventory.hosts] == ["spark1", "spark2"]
    assert said(inventory, "hosts.json is damaged")


def test_an_index_cannot_lead_out_of_the_folder(pair: Path) -> None:
    (pair / "hosts.json").write_text('{"hosts": [{"name": "../../etc"}, {"name": "spark2"}]}')
    inventory = replayed(pair)
    assert [host.name for host in inventory.hosts] == ["spark2", "spark1"]
    assert said(inventory, "cannot be names of folders")
