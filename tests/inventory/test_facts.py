"""Each fact's parser against captured outputs (README.md here says where each comes from), and against damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.inventory import gpus, machine, network, software
from overspan.inventory.fact import Capture, Fact, Seen, read
from overspan.inventory.host import FACTS, kind_of

HERE = Path(__file__).parent
GIB = 2**30


def seen(fact: Fact[Any], case: str) -> Seen[Any]:
    """What a captured case says; its meta file is there where the command failed."""
    meta = HERE / fact.name / f"{case}.json"
    extra = json.loads(meta.read_bytes()) if meta.exists() else {"argv": fact.argv, "code": 0}
    text = (HERE / fact.name / f"{case}.txt").read_text()
    return read(fact, Capture(fact=fact.name, stdout=text, **extra))


def value(fact: Fact[Any], case: str) -> Any:
    found = seen(fact, case)
    assert found.value is not None, found.why
    return found.value


def rdma(case: str) -> list[tuple[str, str | None, bool]]:
    return [(port.device, port.interface, port.active) for port in value(network.IBDEV2NETDEV, case)]


def test_ibdev2netdev_one_cable() -> None:
    assert rdma("one_cable") == [
        ("rocep1s0f0", "enp1s0f0np0", False),
        ("rocep1s0f1", "enp1s0f1np1", True),
        ("roceP2p1s0f0", "enP2p1s0f0np0", False),
        ("roceP2p1s0f1", "enP2p1s0f1np1", True),
    ]


def test_ibdev2netdev_two_cables_in_padded_columns() -> None:
    assert [active for *_, active in rdma("two_cables")] == [True] * 4


def test_ibdev2netdev_down() -> None:
    assert [active for *_, active in rdma("down")] == [False] * 4


def test_ibdev2netdev_absent() -> None:
    absent = seen(network.IBDEV2NETDEV, "absent")
    assert (absent.value, absent.absent) == (None, True)


def test_nvidia_smi() -> None:
    (gb10,) = value(gpus.NVIDIA_SMI, "gb10")
    assert (gb10.name, gb10.memory_bytes, gb10.compute_capability) == ("NVIDIA GB10", None, "12.1")
    assert value(gpus.NVIDIA_SMI, "no_gpu") == []
    broken = seen(gpus.NVIDIA_SMI, "no_driver")
    assert broken.value is None and "couldn't communicate with the NVIDIA driver" in broken.why and not broken.absent


def test_a_gpu_whose_memory_is_an_error_is_no_unified_memory() -> None:
    capture = Capture(fact="nvidia_smi", argv=[], code=0, stdout="0, NVIDIA H100, [Unknown Error], 580.1, 9.0\n")
    (row,) = read(gpus.NVIDIA_SMI, capture).value or []
    assert (row.memory_bytes, row.unified, row.unread) == (None, False, {"memory": "[Unknown Error]"})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA GB10", "gb10"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GB200", "gb200"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA Graphics Device", "graphics-device"),
    ],
)
def test_the_chip_in_a_drivers_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_lscpu_counts_both_kinds_of_core() -> None:
    gb10 = value(machine.LSCPU, "gb10")
    assert (gb10.model, gb10.cores) == ("Cortex-X925 + Cortex-A725", 20)
    vm = value(machine.LSCPU, "debian_vm")
    assert (vm.model, vm.cores) == ("AMD EPYC", 2)
    h100 = value(machine.LSCPU, "h100_vm")
    assert (h100.cores, h100.bf16, gb10.bf16) == (16, True, None)
    assert machine.computes_bf16(["fpu avx2 avx512f", "avx2"]) is False


def test_meminfo_tells_free_from_page_cache() -> None:
    memory = value(machine.MEMINFO, "gb10")
    assert round(memory.total_bytes / GIB, 1) == 121.6
    assert memory.free_bytes < memory.cached_bytes < memory.total_bytes
    assert memory.free_bytes == 8123456 * 1024


def test_system() -> None:
    assert value(machine.UNAME, "debian_vm").arch == "x86_64"
    assert value(machine.OS_RELEASE, "debian_vm") == "Debian GNU/Linux 12 (bookworm)"
    assert value(machine.OS_RELEASE, "dgx_os") == "Ubuntu 24.04.3 LTS"
    disk = value(machine.DF, "debian_vm")
    assert (disk.mount, disk.free_bytes) == ("/", 81120907264)


def test_ip_addr_leaves_out_what_reaches_nobody_else() -> None:
    by_name = {one.name: one for one in value(network.IP_ADDR, "debian_vm")}
    assert by_name["eth0"].addresses == ["192.0.2.2/24", "fd00::2/64"]
    assert (by_name["eth0"].mtu, by_name["eth0"].up) == (1400, True)
    assert by_name["lo"].addresses == []
    assert not by_name["ifb0"].up


def test_net_sysfs() -> None:
    vm = value(network.NET_SYSFS, "debian_vm")
    assert vm["eth0"] == network.Hardware(speed_bits_per_s=None, wifi=False, physical=True), "-1 is no speed"
    assert vm["osd47ebr"] == network.Hardware(speed_bits_per_s=10_000_000_000, wifi=False, physical=False)


def test_rdma_sysfs() -> None:
    infiniband, bare, bond = value(network.RDMA_SYSFS, "infiniband_server")
    assert (infiniband.interface, infiniband.active, infiniband.link_layer) == ("ibp14s0", True, "InfiniBand")
    assert (bare.device, bare.interface) == ("mlx5_1", None)
    assert (bond.interface, bond.link_layer) == ("bond0", "Ethernet")
    first, second = value(network.RDMA_SYSFS, "two_ports_one_device")
    assert (first.interface, first.active) == ("ens1", True)
    assert (second.interface, second.active, second.state) == ("ens1d1", False, "DOWN")


def test_docker() -> None:
    assert value(software.DOCKER, "nvidia") == software.Docker("28.5.1", gpu=True)
    assert value(software.DOCKER, "engine_20").version.startswith("20.10.24")
    assert value(software.DOCKER, "cdi").gpu
    assert not value(software.DOCKER, "no_gpu_runtime").gpu
    stopped = seen(software.DOCKER, "engine_stopped")
    assert stopped.value is None and "Is the docker daemon running?" in stopped.why


def test_sinfo() -> None:
    batch, other, debug, old = value(software.SINFO, "two_partitions")
    assert (batch.name, batch.default, batch.nodes, batch.gres) == ("batch", True, 4, "gpu:gb200:4")
    assert (other.gres, debug.default, old.up) == ("", False, False)
    none = seen(software.SINFO, "no_cluster")
    assert (none.value, none.absent) == (None, True)


CASES = sorted(
    (fact.name, case.stem) for fact in FACTS for case in (HERE / fact.name).glob("*.txt") if case.stat().st_size
)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_capture_cut_anywhere_is_a_value_or_an_unknown_fact(name: str, case: str) -> None:
    fact = next(fact for fact in FACTS if fact.name == name)
    text = (HERE / name / f"{case}.txt").read_text()
    for end in range(0, len(text), max(1, len(text) // 50)):
        found = read(fact, Capture(fact=name, argv=[], code=0, stdout=text[:end]))
        assert found.value is not None or found.why


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


DOCUMENTS = ANYTHING | st.dictionaries(st.just("lscpu"), ANYTHING)


@given(st.sampled_from(FACTS), st.text() | DOCUMENTS.map(json.dumps))
def test_no_output_makes_a_parser_crash(fact: Fact[Any], text: str) -> None:
    found = read(fact, Capture(fact=fact.name, argv=fact.argv, code=0, stdout=text))
    assert found.value is not None or found.why


@pytest.mark.parametrize("root", ["net", "infiniband"])
def test_the_sysfs_commands_on_a_tree_with_loops(tmp_path: Path, root: str) -> None:
    """sysfs in miniature: class folders of links into a device tree, whose `subsystem` links lead back up."""
    import subprocess

    place = tmp_path / "class" / root
    device = tmp_path / "devices" / "pci0000:00" / "0000:01:00.1"
    one = device / root / "one"
    place.mkdir(parents=True)
    (one / "ports" / "1").mkdir(parents=True)
    (one / "ports" / "1" / "state").write_text("4: ACTIVE\n")
    (one / "ports" / "1" / "link_layer").write_text("Ethernet\n")
    (one / "speed").write_text("200000\n")
    (one / "subsystem").symlink_to(place)
    (one / "device").symlink_to(device)
    (device / "net" / "enp1s0f1np1").mkdir(parents=True)
    (device / "driver" / "secret" / "net").mkdir(parents=True)
    (place / "one").symlink_to(one)
    argv = network.net_sysfs_argv(str(place)) if root == "net" else network.rdma_sysfs_argv(str(place))
    text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.replace(str(tmp_path), "/sys")
    if root == "net":
        assert network.parse_net_sysfs(text) == {"one": network.Hardware(200_000_000_000, wifi=False, physical=True)}
    else:
        assert network.parse_rdma_sysfs(text) == [
            network.RdmaPort("one", 1, "enp1s0f1np1", active=True, state="ACTIVE", link_layer="Ethernet")
        ]
