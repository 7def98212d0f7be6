"""Two scripted DGX Sparks for tests of preflight: everything that healthy ones answer, and how to break it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from overspan.catalog import inventories, recipes
from overspan.engines import vllm
from overspan.planner.placement import place, topology_of
from overspan.preflight import preflight
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.recipe import Recipe
from overspan.transport.fake import Fake, Reply
from support.sparks import ip_addr, rdma_sysfs

CAPTURES = Path(__file__).parents[1] / "inventory"
CABLE, HCA = "enp1s0f1np1", "rocep1s0f1"
IMAGE_A, IMAGE_B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def captured(fact: str, case: str) -> str:
    return (CAPTURES / fact / f"{case}.txt").read_text()


def meminfo(free_gib: float, cached_gib: float = 2.0, available_gib: float | None = None) -> str:
    amounts = {"MemTotal": 121.6, "MemFree": free_gib, "Cached": cached_gib}
    amounts["MemAvailable"] = free_gib + cached_gib if available_gib is None else available_gib
    return "".join(f"{name}: {round(gib * 2**20)} kB\n" for name, gib in amounts.items())


PINGED = "3 packets transmitted, 3 received, 0% packet loss, time 404ms\n"
LOST = "3 packets transmitted, 0 received, 100% packet loss, time 2208ms\n"
UNLIMITED = "Max locked memory         unlimited            unlimited            bytes     \n"
DETAILS = """
==============NVSMI LOG==============

Driver Version                                         : 580.95.05
CUDA Version                                           : 13.0

Attached GPUs                                          : 1
GPU 0000000F:01:00.0
    Product Name                                       : NVIDIA GB10
    ECC Errors
        Volatile
            SRAM Correctable                           : 0
            SRAM Uncorrectable Parity                  : 0
            DRAM Correctable                           : 0
            DRAM Uncorrectable                         : 0
        Aggregate
            SRAM Uncorrectable Parity                  : 0
            DRAM Uncorrectable                         : 0
    Fabric
        State                                          : N/A
        Status                                         : N/A
"""
INSIDE = (
    "shm shm 63000000 0 63000000 0% /dev/shm\nrdma rdma_cm uverbs0 uverbs1 \n"
    "gpus GPU 0: NVIDIA GB10 (UUID: GPU-1);\nplugin  \nucx 4\nnvcc /usr/local/cuda/bin/nvcc\n"
    "cc /usr/bin/cc\nheaders /usr/include/python3.12/Python.h \n"
)
IMPORTED = "arch sm_80 sm_90 sm_100 sm_120 compute_120\ngpu 121\n"
REQUIRES = (
    "PATH=/usr/bin\nNVIDIA_REQUIRE_CUDA=cuda>=13.0 brand=unknown,driver>=535,driver<536 "
    "brand=tesla,driver>=570,driver<571\n"
)
LIMITED = "Max locked memory         8388608              8388608              bytes     \n"


def gids(number: int, index: int = 3) -> str:
    root = f"/sys/class/infiniband/{HCA}/ports/1"
    local, mine = "fe80:0000:0000:0000:4ebb:47ff:fe00:0001", f"0000:0000:0000:0000:0000:ffff:0a0a:0a0{number}"
    table = [("IB/RoCE v1", local), ("RoCE v2", local), ("IB/RoCE v1", mine), ("RoCE v2", mine)]
    table = table if index == 3 else table[:2]
    kinds = [f"{root}/gid_attrs/types/{at}:{kind}" for at, (kind, _) in enumerate(table)]
    return "\n".join([*kinds, *(f"{root}/gids/{at}:{gid}" for at, (_, gid) in enumerate(table))]) + "\n"


def healthy(number: int) -> dict[str, Reply]:
    """Everything that a Spark in order answers, by a name that a test can replace."""
    addresses = {CABLE: [f"10.10.10.{number}/24"], "enP7s7": [f"192.168.1.{number}/24"]}
    return {
        "true": Reply(argv=["true"]),
        "docker": Reply(argv=["docker", "info", "**"], stdout=captured("docker_info", "nvidia")),
        "gpu": Reply(argv=["nvidia-smi", "--query-gpu=index,name*", "**"], stdout=captured("nvidia_smi", "gb10")),
        "holders": Reply(argv=["nvidia-smi", "--query-compute*", "**"], stdout=captured("gpu_processes", "gb10")),
        "ip": Reply(argv=["ip", "-j", "addr"], stdout=ip_addr(addresses, [CABLE], {CABLE: 9000})),
        "rdma": Reply(argv=["find", "-L", "/sys/class/infiniband", "**"], stdout=rdma_sysfs([CABLE])),
        "small": Reply(argv=["ping", *["*"] * 11, "56", "*"], stdout=PINGED),
        "large": Reply(argv=["ping", *["*"] * 11, "8972", "*"], stdout=PINGED),
        "inside": Reply(argv=["docker", "run", *["*"] * 5, "--entrypoint", "sh", "**"], stdout=INSIDE),
        "import": Reply(argv=["docker", "run", *["*"] * 5, "--entrypoint", "python3", "**"], stdout=IMPORTED),
        "details": Reply(argv=["nvidia-smi", "-q"], stdout=DETAILS),
        "xid": Reply(argv=["journalctl", "-k", "**"], code=1),
        "gids": Reply(argv=["grep", "-rs", "**"], stdout=gids(number)),
        "requires": Reply(argv=["docker", "image", "inspect", "--format", "{{range*", "**"], stdout=REQUIRES),
        "clock": Reply(argv=["date", "+%s"], stdout=f"{time.time():.0f}\n"),
        "limits": Reply(argv=["docker", "run", "--rm", "**"], stdout=UNLIMITED),
        "ss": Reply(argv=["ss", "-Hltnp"], stdout='LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'),
        "memory": Reply(argv=["cat", "/proc/meminfo"], stdout=meminfo(118.0)),
        "model": Reply(argv=["ls", "-d", "**"], stdout="/models\n"),
        "disk": Reply(argv=["df", "**"], stdout=captured("df", "h100_vm")),
        "image": Reply(argv=["docker", "image", "inspect", "**"], stdout=f"{IMAGE_A} arm64\n"),
    }


def sparks() -> Inventory:
    """The inventory that ships, with the cable, the RDMA device and a model cache that detection finds."""
    shipped = inventories.find("two-sparks")
    hosts = []
    for host in shipped.hosts:
        assert host.fabric is not None
        fabric = host.fabric.with_(interface=CABLE, hcas=[HCA])
        nic = host.nics[0].with_(interface=CABLE, rdma_device=HCA)
        hosts.append(host.with_(fabric=fabric, nics=[nic], model_cache="/models"))
    return shipped.with_(hosts=hosts)


def plan_on(inventory: Inventory, recipe: Recipe) -> Plan:
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=EngineChoice(name=recipe.engine, version="0.32.0", image=recipe.image),
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=place(topology_of(recipe), inventory).placements,
        overspan_version="0",
    )


class Two:
    """Two scripted Sparks. `change` breaks something on one of them; `check` runs preflight."""

    def __init__(self) -> None:
        self.plan = plan_on(sparks(), recipes.find("minimax-m2.5-nvfp4"))
        self.replies = {"spark1": healthy(1), "spark2": healthy(2)}
        self.hosts: dict[str, Fake] = {}

    def change(self, host: str, name: str, **changes: object) -> None:
        self.replies[host][name] = self.replies[host][name].with_(**changes)

    def reach(self, host: Host) -> Fake:
        self.hosts[host.name] = Fake(host.name, list(self.replies[host.name].values()))
        return self.hosts[host.name]

    def check(self, reach: Callable[[Host], Fake] | None = None) -> list[Finding]:
        return preflight(self.plan, reach or self.reach, vllm.ENGINE.processes(self.plan))

    def only_failure(self) -> Finding:
        found = [finding for finding in self.check() if finding.status == "failed"]
        assert len(found) == 1, [(one.rule, one.cause) for one in found]
        return found[0]


def host_of(finding: Finding) -> str | None:
    assert finding.evidence is not None
    return finding.evidence.host
