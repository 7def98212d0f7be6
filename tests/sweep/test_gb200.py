"""The MiniMax-M3 sweeps on a GB200 rack against the public reference (docs/sources.md#racks, MiniMax-M3 on GB200).

Where the points say more or other than the reference page, DEVIATIONS says why.
"""

import pytest

from overspan.catalog import inventories
from overspan.planner.placement import place
from overspan.schema.point import Point
from overspan.schema.topology import parse_topology
from overspan.sweep.expand import matrix_of

# topology, concurrencies, whether the decode workers are Marlin, nodes of prefill and of decode
REFERENCE = {
    "1k1k": [
        ("1P1D DEP4->TEP8", [4, 16, 64, 128, 4096], False, 1, 2),
        ("1P1D DEP4->TP4", [1, 4, 8, 16], True, 1, 1),
        ("1P2D DEP4->DEP4", [2048], False, 1, 2),
        ("2P1D DEP4->DEP8", [512, 4096], False, 2, 2),
        ("2P1D DEP4->TEP8", [32], False, 2, 2),
        ("2P2D DEP4->TEP8", [16], False, 2, 4),
        ("3P2D DEP4->TEP8", [4], False, 3, 4),
    ],
    "8k1k": [
        ("1P1D DEP4->TP4", [1, 4, 8, 16], True, 1, 1),
        ("1P2D DEP4->DEP8", [128], False, 1, 4),
        ("2P2D DEP4->DEP8", [256, 512], False, 2, 4),
        ("2P2D DEP4->TEP8", [16], False, 2, 4),
        ("3P2D DEP4->DEP8", [512], False, 3, 4),
        ("3P2D DEP4->TEP8", [32], False, 3, 4),
        ("4P2D DEP4->DEP8", [4096], False, 4, 4),
        ("5P2D DEP4->TEP8", [4, 64], False, 5, 4),
    ],
}
ENVIRONMENT = {
    "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
    "VLLM_FLOAT32_MATMUL_PRECISION": "high",
    "VLLM_FLASHINFER_ALLREDUCE_BACKEND": "mnnvl",
    "UCX_MEMTYPE_CACHE": "n",
    "UCX_MEMTYPE_REG_WHOLE": "n",
    "UCX_TLS": "cuda_copy,cuda_ipc,tcp",
    "UCX_CUDA_IPC_ENABLE_MNNVL": "y",
    "NCCL_CUMEM_ENABLE": "1",
}
BOTH = {
    "--block-size": "128",
    "--gpu-memory-utilization": "0.9",
    "--kv-cache-dtype": "fp8",
    "--no-enable-prefix-caching": "",
    "--language-model-only": "",
    "--attention-backend": "FLASHINFER",
    "--stream-interval": "32",
}
DEVIATIONS = {
    "--served-model-name": "the name in the API, the model's id: the reference page names no other",
    "--kv-transfer-config": "the connector is stated there; kv_load_failure_policy fail is its own advice",
    "--max-cudagraph-capture-size": "the page gives none: graphs for a decode rank's share of the most users",
}
# "TP and TEP 4096 or 1024 sequences" is read as 4096 where up to 4,096 users come to one worker (1k1k), else 1024.
TP_SEQUENCES = {"1k1k": "4096", "8k1k": "1024"}


@pytest.fixture(scope="module", params=["1k1k", "8k1k"])
def points(request: pytest.FixtureRequest) -> list[Point]:
    return matrix_of(f"m3-gb200-{request.param}", "gb200-nvl72", to_start=False).points


def options(flags: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in flags:
        if word.startswith("--"):
            found[word] = ""
        else:
            found[list(found)[-1]] = word
    return found


def test_every_topology_and_concurrency_and_no_other(points: list[Point]) -> None:
    scenario = points[0].scenario
    expected = [(topology, users, marlin) for topology, many, marlin, *_ in REFERENCE[scenario] for users in many]
    assert [(point.topology, point.concurrency, point.name == "marlin") for point in points] == expected
    assert len(points) == {"1k1k": 15, "8k1k": 13}[scenario]


def test_nodes_and_gpus(points: list[Point]) -> None:
    nodes = {topology: (prefill, decode) for topology, _, _, prefill, decode in REFERENCE[points[0].scenario]}
    for point in points:
        prefill, decode = nodes[point.topology]
        assert (len(point.roles["prefill"].nodes), len(point.roles["decode"].nodes)) == (prefill, decode)
        assert point.nodes == prefill + decode
        assert point.gpus_used == point.gpus_reserved == 4 * point.nodes


def test_the_environment_of_both_roles(points: list[Point]) -> None:
    for point in points:
        assert all(role.env == ENVIRONMENT for role in point.roles.values())


def test_the_flags_of_each_role(points: list[Point]) -> None:
    scenario = points[0].scenario
    length = {"1k1k": "2304", "8k1k": "9472"}[scenario]
    for point in points:
        prefill, decode = options(point.roles["prefill"].flags), options(point.roles["decode"].flags)
        layout = point.roles["decode"].layout
        batched = {"1k1k": "2048", "8k1k": "16384"}[scenario]
        expected = {"--max-model-len": length, "--max-num-batched-tokens": batched}
        assert without(prefill) == BOTH | expected | {"--data-parallel-size": "4", "--enable-expert-parallel": ""}
        degree = "--data-parallel-size" if layout.startswith("D") else "--tensor-parallel-size"
        expected = {"--max-model-len": length, "--max-num-batched-tokens": "16384", degree: layout[-1]}
        expected |= {"--enable-expert-parallel": ""} if "EP" in layout else {"--moe-backend": "marlin"}
        expected |= {"--max-num-seqs": "512" if layout.startswith("D") else TP_SEQUENCES[scenario]}
        assert without(decode) == BOTH | expected
        assert '"kv_connector":"NixlConnector"' in decode["--kv-transfer-config"]
        assert '"kv_load_failure_policy":"fail"' in decode["--kv-transfer-config"]


def without(flags: dict[str, str]) -> dict[str, str]:
    return {flag: value for flag, value in flags.items() if flag not in DEVIATIONS}


def test_no_point_is_short_of_sequences(points: list[Point]) -> None:
    assert [point.notes for point in points] == [[] for _ in points]


def test_one_process_a_node_of_each_worker_and_ports_of_their_own(points: list[Point]) -> None:
    for point in points:
        front, *workers, etcd = point.commands
        assert (front.process, etcd.process) == ("frontend", "etcd")
        assert front.host == etcd.host == workers[0].host
        assert len(workers) == point.nodes
        assert all("dynamo.vllm" in each.command for each in workers)
        modes = ["prefill" if "--disaggregation-mode prefill" in each.command else "decode" for each in workers]
        assert modes.count("prefill") == len(point.roles["prefill"].nodes)


def test_the_rack_is_eighteen_nodes_of_four() -> None:
    for rack in ("gb200-nvl72", "gb300-nvl72"):
        hosts = inventories.find(rack).hosts
        assert [len(host.gpus) for host in hosts] == [4] * 18
        assert len({host.name for host in hosts}) == 18
    assert place(parse_topology("TP8"), inventories.find("b200-x8")).gpus_reserved == 8
