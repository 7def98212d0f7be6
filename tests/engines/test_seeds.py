"""What the two guides for DGX Sparks have a person paste, Overspan's plan carries: every flag and variable of them.

Deviations, each on purpose:
- HEAD_IP and WORKER_IP were variables of an entrypoint script; the addresses are arguments of `ray start` here.
- `docker exec` of a second program in the head's container: one process starts Ray and becomes `vllm serve`, so that
  its death is the container's death.
- The Hugging Face cache was mounted whole; the launch mounts the staged model alone, at the same path on every host.
- `--restart unless-stopped` (seed 003): the supervisor owns the ranks; a lone restarted rank would join nothing.
- `--shm-size=16g` (seed 003): `--ipc host` gives all of the host's shared memory.
- `tee` into a file inside the container: each rank's output is kept in the run's folder.
"""

from pathlib import Path

import pytest

from overspan.runs.commands import commands_of
from overspan.runs.planning import Wanted, plan_of, processes_of


def commands(recipe: str, *settings: str) -> dict[str, str]:
    plan = plan_of(Wanted(recipe, "two-sparks", settings), to_start=False)
    return {spec.name: commands_of(spec) for spec in processes_of(plan)}


NODE = {
    "api": ["VLLM_HOST_IP=10.10.10.1"],
    "worker1": ["VLLM_HOST_IP=10.10.10.2"],
}
BOTH = [
    "--network host",
    "--gpus all",
    "--ipc host",
    "NCCL_SOCKET_IFNAME=enp1s0f0np0",
    "GLOO_SOCKET_IFNAME=enp1s0f0np0",
    "RAY_memory_monitor_refresh_ms=0",
]
SEED_000 = [
    "RAY_ADDRESS=10.10.10.1:6379",
    "MASTER_ADDR=10.10.10.1",
    "VLLM_USE_FLASHINFER_MOE_FP4=0",
    "VLLM_TEST_FORCE_FP8_MARLIN=1",
    "VLLM_NVFP4_GEMM_BACKEND=marlin",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1",
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    "avarok/dgx-vllm-nvfp4-kernel:v22",
    "vllm serve lukealonso/MiniMax-M2.5-NVFP4",
    "--host 0.0.0.0 --port 8888",
    "--tensor-parallel-size 2",
    "--distributed-executor-backend ray",
    "--max-model-len 4096",
    "--gpu-memory-utilization 0.85",
    "--max-num-seqs 32",
    "--enable-expert-parallel",
    "--attention-backend flashinfer",
    "--trust-remote-code",
    "--disable-custom-all-reduce",
    "--enforce-eager",
]
SEED_003 = [
    "nvcr.io/nvidia/vllm:25.10-py3",
    "vllm serve meta-llama/Llama-3.3-70B-Instruct",
    "--tensor-parallel-size 2",
    "--max-model-len 2048",
    "--gpu-memory-utilization 0.7",
    "--distributed-executor-backend ray",
    "--device /dev/infiniband",
    "--ulimit memlock=-1",
    "TP_SOCKET_IFNAME=enp1s0f0np0",
    "UCX_NET_DEVICES=enp1s0f0np0",
]


@pytest.mark.parametrize(
    ("recipe", "flags"), [("minimax-m2.5-nvfp4", SEED_000), ("llama-3.3-70b", SEED_003)], ids=["seed000", "seed003"]
)
def test_every_flag_and_variable_of_the_seed(recipe: str, flags: list[str]) -> None:
    made = commands(recipe, "engine=vllm-ray")
    for process, own in NODE.items():
        missing = [word for word in [*BOTH, *own] if word not in made[process]]
        assert missing == [], process
    assert [flag for flag in flags if flag not in made["api"]] == []
    # The address is this node's own before Ray starts: seed 000's "3 unique IP addresses".
    for text in made.values():
        assert text.index("VLLM_HOST_IP=") < text.index("--node-ip-address")


@pytest.mark.parametrize("engine", ["vllm", "vllm-ray"])
def test_the_commands_of_two_sparks_are_as_accepted(engine: str) -> None:
    """Accept a change: write what the failure shows into the golden file."""
    golden = Path(__file__).with_name("golden") / f"minimax-two-sparks-{engine}.txt"
    made = "\n\n".join(commands("minimax-m2.5-nvfp4", f"engine={engine}").values()) + "\n"
    assert made == golden.read_text()


def test_native_ranks_differ_only_in_what_is_their_own() -> None:
    made = commands("minimax-m2.5-nvfp4")
    assert "--nnodes 2 --node-rank 0 --master-addr 10.10.10.1 --master-port 29501" in made["api"]
    assert "--nnodes 2 --node-rank 1 --master-addr 10.10.10.1 --master-port 29501 --headless" in made["worker1"]
    assert "--headless" not in made["api"]
    assert "NCCL_IB_GID_INDEX" not in made["api"] + made["worker1"]
