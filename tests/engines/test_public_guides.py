"""What two guides for DGX Sparks have a person paste, Overspan's plan carries: each flag and variable, word for word.

Deviations, each on purpose. Of both guides:
- `sudo docker`: the account that Overspan logs in with may use Docker, which preflight checks.
- names of containers: a run's id stands in ours, so that two runs are two sets of containers, and in their labels.
- `-d` is written `--detach`, `--ipc=host` `--ipc host`, and so on: the same options.
- the Hugging Face cache mounted whole: the launch mounts the model alone, staged on every host at the same path.
- `docker exec` of a second program in the head's container, with `export` before it: one process starts Ray and becomes
  `vllm serve`, with its whole environment from the container, so that its death is the container's death.
- `tee` into a file inside the container: each rank's output is kept in the run's folder.
Of Avarok's MiniMax-M2.5 guide:
- `ray-head`, `ray-worker`, HEAD_IP, WORKER_IP: words and variables of its image's entrypoint script, which is not
  needed: `ray start` stands in the command, and the addresses are its arguments.
- its script says which of NCCL's settings it found useless (Ring and Simple, IB off); they are left out here too.
Of mark-ramsey-ri/vllm-dgx-spark:
- `--restart unless-stopped`: the supervisor owns the ranks; a lone rank that comes back would join nothing.
- `--shm-size=16g`: `--ipc host` gives all of the host's shared memory, and Docker ignores the size beside it.
- `pip install ray==2.51.0` in each container: it is there to have the same Ray on both; preflight compares the image's
  id on all hosts, so it is the same.
- HF_TOKEN for each container: weights are fetched before the launch and copied; no container needs the token.
- UCX_NET_DEVICES: its example gives UCX the twin's interface, its detection the active one, and with either UCX uses
  TCP alone; ours is that interface's RDMA device with its port. `fabric.ucx` of the inventory sets others.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from overspan.catalog import inventories
from overspan.inventory.captured import as_yaml, replayed
from overspan.launchers.registry import launcher_of
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.errors import RecipeError
from support.sparks import write_spark


@dataclass
class Pasted:
    """A docker command, taken apart: its options and the environment, and the words after the image."""

    options: list[str]
    env: dict[str, str]
    image: str
    words: list[str]

    def has(self, *words: str) -> bool:
        """Whether the words stand side by side, as options or arguments."""
        return any(
            list(words) == line[place : place + len(words)]
            for line in (self.options, self.words)
            for place in range(len(line))
        )


def pasted(text: str) -> Pasted:
    words = shlex.split(text, comments=True)
    end = words.index("--")
    options, env = words[:end], {}
    while "--env" in options:
        place = options.index("--env")
        name, _, value = options[place + 1].partition("=")
        env[name] = value
        del options[place : place + 2]
    return Pasted(options, env, words[end + 1], words[end + 2 :])


def commands(recipe: str, *settings: str, on: str = "two-sparks") -> dict[str, str]:
    plan = plan_of(Wanted(recipe, on, settings), to_start=False)
    launcher = launcher_of(plan)
    return {spec.name: launcher.commands([spec]) for spec in processes_of(plan)}


def by_hand(recipe: str, *settings: str, on: str = "two-sparks") -> tuple[Pasted, Pasted]:
    made = commands(recipe, *settings, on=on)
    return pasted(made["api"]), pasted(made["worker1"])


# Seed 000, "Manual Deployment": steps 1 (head), 2 (worker) and 3 (serve).
OPTIONS_000 = [["--network", "host"], ["--gpus", "all"], ["--ipc", "host"], ["--detach"]]
NODE_000 = {
    "NCCL_SOCKET_IFNAME": "enp1s0f0np0",
    "GLOO_SOCKET_IFNAME": "enp1s0f0np0",
    "RAY_memory_monitor_refresh_ms": "0",
}
SERVE_ENV_000 = {
    "VLLM_HOST_IP": "10.10.10.1",
    "RAY_ADDRESS": "10.10.10.1:6379",
    "MASTER_ADDR": "10.10.10.1",
    "VLLM_USE_FLASHINFER_MOE_FP4": "0",
    "VLLM_TEST_FORCE_FP8_MARLIN": "1",
    "VLLM_NVFP4_GEMM_BACKEND": "marlin",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
SERVE_000 = [
    ["vllm", "serve", "lukealonso/MiniMax-M2.5-NVFP4"],
    ["--host", "0.0.0.0", "--port", "8888"],
    ["--tensor-parallel-size", "2"],
    ["--distributed-executor-backend", "ray"],
    ["--max-model-len", "4096"],
    ["--gpu-memory-utilization", "0.85"],
    ["--max-num-seqs", "32"],
    ["--enable-expert-parallel"],
    ["--attention-backend", "flashinfer"],
    ["--trust-remote-code"],
    ["--disable-custom-all-reduce"],
    ["--enforce-eager"],
]


def test_seed_000_manual_deployment() -> None:
    head, worker = by_hand("minimax-m2.5-nvfp4", "engine=vllm-ray")
    for node, address in ((head, "10.10.10.1"), (worker, "10.10.10.2")):
        assert [words for words in OPTIONS_000 if not node.has(*words)] == []
        assert (NODE_000 | {"VLLM_HOST_IP": address}).items() <= node.env.items()
        assert node.image == "avarok/dgx-vllm-nvfp4-kernel:v22"
        assert node.has("ray", "start") or (node.has("--entrypoint", "ray") and node.words[0] == "start")
        # Its own address before Ray starts: what Avarok's MiniMax-M2.5 guide says mends "3 unique IP addresses".
        assert node.has(f"--node-ip-address={address}")
    assert head.has("--head") and worker.has("--address=10.10.10.1:6379")
    assert SERVE_ENV_000.items() <= head.env.items()
    assert [words for words in SERVE_000 if not head.has(*words)] == []


# Seed 003: docker parameters, variables of its scripts, their values as its text has them; with its own interface.
ENV_003 = {
    "NCCL_SOCKET_IFNAME": "enp1s0f1np1",
    "GLOO_SOCKET_IFNAME": "enp1s0f1np1",
    "TP_SOCKET_IFNAME": "enp1s0f1np1",
    "UCX_NET_DEVICES": "rocep1s0f1:1",
    "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
}
SERVE_003 = [
    ["vllm", "serve", "meta-llama/Llama-3.3-70B-Instruct"],
    ["--tensor-parallel-size", "2"],
    ["--max-model-len", "2048"],
    ["--gpu-memory-utilization", "0.7"],
    ["--distributed-executor-backend", "ray"],
    ["--port", "8000"],
    ["--head", "--port=6379", "--dashboard-port=8265"],
]


def test_seed_003_from_detection_to_the_commands(tmp_path: Path) -> None:
    """Its two scripts detect and start; here two machines as it describes them are detected and planned for."""
    for name, address in (("spark1", "169.254.10.1/16"), ("spark2", "169.254.20.2/16")):
        write_spark(tmp_path / "seen", name, {"enp1s0f1np1": [address]})
    pair = tmp_path / "pair.yaml"
    pair.write_text(as_yaml(replayed(tmp_path / "seen")))
    for node, address in zip(by_hand("llama-3.3-70b", on=str(pair)), ("169.254.10.1", "169.254.20.2"), strict=True):
        for words in (["--network", "host"], ["--gpus", "all"], ["--ulimit", "memlock=-1"]):
            assert node.has(*words), words
        assert node.has("--device", "/dev/infiniband")
        assert (ENV_003 | {"VLLM_HOST_IP": address}).items() <= node.env.items()
        assert node.image == "nvcr.io/nvidia/vllm:25.10-py3"
    head, worker = by_hand("llama-3.3-70b", on=str(pair))
    assert [words for words in SERVE_003 if not head.has(*words)] == []
    assert worker.has("--address=169.254.10.1:6379")


# The table of Avarok's MiniMax-M2.5 guide, "Environment overrides": by its own names.
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("PORT=8889", ["--port", "8889"]),
        ("MAX_MODEL_LEN=2048", ["--max-model-len", "2048"]),
        ("GPU_MEMORY_UTIL=0.80", ["--gpu-memory-utilization", "0.8"]),
        ("MAX_NUM_SEQS=16", ["--max-num-seqs", "16"]),
        ("MODEL=me/other", ["serve", "me/other", "--served-model-name", "me/other"]),
    ],
)
def test_an_override_of_seed_000_reaches_the_command(setting: str, words: list[str]) -> None:
    assert by_hand("minimax-m2.5-nvfp4", setting)[0].has(*words)


def test_the_image_of_seed_000_can_be_another_on_all_hosts() -> None:
    assert {node.image for node in by_hand("minimax-m2.5-nvfp4", "IMAGE=other:v23")} == {"other:v23"}


def test_addresses_and_user_of_seed_000_stand_in_the_inventory(tmp_path: Path) -> None:
    for name, field in (("HEAD_IP", "hosts[0]"), ("WORKER_IP", "hosts[1]"), ("REMOTE_USER", "ssh.user")):
        with pytest.raises(RecipeError) as refused:
            commands("minimax-m2.5-nvfp4", f"{name}=x")
        assert field in str(refused.value.next)
    pair = inventories.find("two-sparks").model_dump(mode="json")
    pair["hosts"][0]["fabric"]["address"], pair["hosts"][1]["fabric"]["address"] = "10.0.0.8", "10.0.0.9"
    pair["hosts"][1]["ssh"] |= {"address": "10.0.0.9", "user": "ann"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(pair))
    head, worker = by_hand("minimax-m2.5-nvfp4", on=str(file))
    assert head.has("--master-addr", "10.0.0.8") and worker.has("--master-addr", "10.0.0.8")
    assert (head.env["VLLM_HOST_IP"], worker.env["VLLM_HOST_IP"]) == ("10.0.0.8", "10.0.0.9")


# The table of Avarok's MiniMax-M2.5 guide, "Performance", and its script's flags.
def test_variants_of_seed_000() -> None:
    cutlass, _ = by_hand("minimax-m2.5-nvfp4", "variant=cutlass")
    assert "VLLM_NVFP4_GEMM_BACKEND" not in cutlass.env and not cutlass.has("--enable-expert-parallel")
    graphs = plan_of(Wanted("minimax-m2.5-nvfp4", "two-sparks", ("variant=cuda-graphs",)), to_start=False)
    assert any("deadlock after 2 to 8 requests" in note for note in graphs.notes)
    assert not by_hand("minimax-m2.5-nvfp4", "variant=cuda-graphs")[0].has("--enforce-eager")
    stages, _ = by_hand("minimax-m2.5-nvfp4", "variant=pp2")
    assert stages.has("--pipeline-parallel-size", "2") and not stages.has("--tensor-parallel-size")
    ngram, _ = by_hand("minimax-m2.5-nvfp4", "variant=ngram")
    assert json.loads(ngram.words[ngram.words.index("--speculative-config") + 1])["method"] == "ngram"


@pytest.mark.parametrize(("recipe", "engine"), [("minimax", "vllm"), ("minimax", "vllm-ray"), ("llama", "vllm-ray")])
def test_the_commands_of_two_sparks_are_as_accepted(recipe: str, engine: str) -> None:
    """Accept a change: write what the failure shows into the golden file."""
    golden = Path(__file__).with_name("golden") / f"{recipe}-two-sparks-{engine}.txt"
    name = {"minimax": "minimax-m2.5-nvfp4", "llama": "llama-3.3-70b"}[recipe]
    made = "\n\n".join(commands(name, f"engine={engine}").values()) + "\n"
    assert made == golden.read_text()


def test_native_ranks_differ_only_in_what_is_their_own() -> None:
    head, worker = by_hand("minimax-m2.5-nvfp4")
    for rank, node in enumerate((head, worker)):
        place = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "10.10.10.1", "--master-port", "29501"]
        assert node.has(*place)
        assert "NCCL_IB_GID_INDEX" not in node.env
    assert worker.has("--headless") and not head.has("--headless")
    shared = [name for name in head.env if name != "VLLM_HOST_IP"]
    assert [head.env[name] for name in shared] == [worker.env[name] for name in shared]
