"""How far a start is, from logs as engines write them: lines, bars that are drawn over themselves, several ranks."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tqdm import tqdm  # type: ignore[import-untyped]

from overspan.engines.phases import VLLM
from overspan.runs.progress import Starts, newest_line
from overspan.runs.status import RunStatus, status
from overspan.schema.inventory import Gpu, Host
from overspan.schema.plan import Plan
from overspan.store.locks import NameLock
from overspan.store.run_folder import RunFolder
from support.plans import plan_on
from support.shell import run_overspan

CPU = Path(__file__).parent / "starts" / "cpu-0.32.log"
"""The whole start of vLLM 0.32 with SmolLM2 on a CPU, as it wrote it on 2026-11-30."""


def texts(starts: Starts, log: Path, pieces: list[bytes]) -> list[str]:
    """What is seen after each piece of a log, without repeats."""
    found: list[str] = []
    for piece in pieces:
        with log.open("ab") as file:
            file.write(piece)
        if (seen := starts.look()) is not None and seen.phase.text not in found[-1:]:
            found.append(seen.phase.text)
    return found


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_the_start_of_an_engine_on_a_cpu(logs: Path) -> None:
    seen = texts(Starts(logs, VLLM), logs / "api.log", CPU.read_bytes().splitlines(keepends=True))
    assert seen == [
        "the API server reads its settings",
        "the engine core starts",
        "ranks connect (gloo)",
        "weights: loading",
        "weights: 0 of 1 shards",
        "weights: 1 of 1 shards",
        "weights are loaded",
        "the KV cache is made",
        "the engine is made; its API starts",
        "the API answers; waiting for the first token",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("(APIServer pid=9) INFO 12-01 10:00:00 [u.py:9] Waiting for 1 local, 1 remote core engine proc(s) to start.",
         "waiting for engine cores of all nodes"),
        ("INFO 12-01 10:00:00 [ray_utils.py:607] No current placement group found. Creating a new placement group.",
         "Ray places the ranks"),
        ("INFO 12-01 10:00:00 [pynccl.py:148] vLLM is using nccl==2.28.9", "ranks connect (NCCL starts)"),
        ("h1:9:9 [0] NCCL INFO ncclCommInitRank comm 0x5 rank 0 nranks 2 cudaDev 0 commId 0x1 - Init COMPLETE",
         "ranks are connected (NCCL)"),
        ("(Worker pid=9) INFO 12-01 10:00:00 [backends.py:1105] Using cache directory: /c for vLLM's torch.compile",
         "torch.compile"),
        ("(Worker pid=9) INFO 12-01 10:00:00 [monitor.py:34] torch.compile takes 31.72 s in total",
         "measuring what memory is left"),
        ("2026-12-01 10:00:00,1 - INFO - autotuner.py:651 - flashinfer.jit: [Autotuner]: Autotuning process starts ...",
         "autotuning of kernels"),
        ("INFO 12-01 10:00:00 [gpu_model_runner.py:6582] Graph capturing finished in 6 secs, took 0.98 GiB",
         "CUDA graphs are captured"),
    ],
)  # fmt: skip
def test_lines_of_a_gpus_start(logs: Path, line: str, text: str) -> None:
    assert texts(Starts(logs, VLLM), logs / "api.log", [f"{line}\n".encode()]) == [text]


@pytest.mark.parametrize(
    ("of", "count", "at", "text"),
    [
        ("Loading safetensors checkpoint shards", 26, 12, "weights: 12 of 26 shards"),
        ("DeepGEMM warmup", 1261, 594, "DeepGEMM warm-up: 594 of 1261 kernels"),
        ("[AutoTuner]: Tuning fp4_gemm", 23, 8, "autotuning of fp4_gemm: 8 of 23"),
        ("JIT kernel warmup (40 compile keys)", 40, 3, "warm-up of kernels: 3 of 40"),
        ("Capturing CUDA graphs (decode, FULL)", 83, 40, "CUDA graph capture: 40 of 83"),
        ("Capturing CUDA graphs (FULL)", 83, 40, "CUDA graph capture: 40 of 83"),
    ],
)
def test_a_bar_that_is_drawn_over_itself_and_shares_its_line(
    logs: Path, of: str, count: int, at: int, text: str
) -> None:
    starts = Starts(logs, VLLM)
    with (logs / "api.log").open("w") as log:
        log.write("(Worker pid=9) INFO 12-01 10:00:00 [gpu_model_runner.py:5040] Starting to load model m...\n")
        bar = tqdm(total=count, desc=of, file=log, ncols=120, mininterval=0)
        for _ in range(at):
            bar.update()
        log.flush()
        seen = starts.look()
        assert seen is not None
        assert seen.text == f"{text} (api)"
        log.write("(EngineCore pid=9) INFO 12-01 10:00:09 [shm_broadcast.py:705] No block found in 60 seconds.")
        log.flush()
        assert starts.look() == seen, "another's line behind the bar"
        bar.update(count - at)
        bar.close()
    seen = starts.look()
    assert seen is not None
    assert f"{count} of {count}" in seen.text


def test_what_is_paid_once_is_said_to_be(logs: Path) -> None:
    (logs / "api.log").write_text("DeepGEMM warmup:  47%|####7     | 594/1261 [03:10<02:52,  3.87it/s]")
    seen = Starts(logs, VLLM).look()
    assert seen is not None
    assert "the first start alone takes it" in seen.in_full


def test_any_rank_tells_and_the_newest_counts(logs: Path) -> None:
    starts = Starts(logs, VLLM)
    for number, (name, shards) in enumerate((("api", 3), ("worker1", 20), ("api", 4))):
        with (logs / f"{name}.log").open("a") as log:
            log.write(f"Loading safetensors checkpoint shards:  10% Completed | {shards}/26 [00:01<00:09,  2.0it/s]\n")
        os.utime(logs / f"{name}.log", (number, number))
        seen = starts.look()
        assert seen is not None
        assert seen.text == f"weights: {shards} of 26 shards ({name})"


def test_a_flood_is_one_line_a_second(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("overspan.runs.progress.time.monotonic", lambda: now[0])
    starts, told = Starts(logs, VLLM), 0
    for step in range(100):
        now[0] += 0.05
        with (logs / "api.log").open("a") as log:
            log.write(
                "\r".join(f"DeepGEMM warmup: 1%|{'#' * 50}| {each}/9999 [00:01<00:02, 9it/s]" for each in range(200))
            )
            log.write("\nINFO Starting to load model m\n" if step % 2 else "\n")
        told += starts.news() is not None
    assert 1 < told <= 6


def test_a_start_before_this_one_tells_nothing(logs: Path) -> None:
    (logs / "api.log").write_bytes(CPU.read_bytes())
    assert Starts(logs, VLLM, anew=True).look() is None
    assert Starts(logs / "none", VLLM).look() is None


def test_without_a_phase_the_newest_line_is_told_and_moves_no_cursor(logs: Path) -> None:
    (logs / "api.log").write_bytes(b"one\n  50%|##| 1/2\r 100%|####| 2/2 \x1b[2J\r")
    assert newest_line(logs) == "api: 100%|####| 2/2 ?[2J"


@pytest.fixture
def held() -> Iterator[Callable[[Plan], RunFolder]]:
    with ExitStack() as stack:

        def make(plan: Plan) -> RunFolder:
            run, lock = RunFolder.create("starting"), NameLock("starting")
            stack.callback(lock.close)
            lock.take(run.id)
            run.write("plan.json", plan)
            run.append("launching", state="launching")
            return run

        yield make


def told(run: RunFolder) -> tuple[RunStatus, str]:
    return status(run), run_overspan("status", run.id).stdout


def test_status_says_the_phase_of_a_start(held: Callable[[Plan], RunFolder]) -> None:
    run = held(plan_on())
    assert status(run).progress is None
    run.append("DeepGEMM warm-up: 1 of 1261 kernels (api)", process="api", phase="deepgemm")
    run.log("api").write_text("DeepGEMM warmup:  47%|####7     | 594/1261 [03:10<02:52,  3.87it/s]")
    now, text = told(run)
    assert now.progress == "DeepGEMM warm-up: 594 of 1261 kernels (api)"
    assert now.progress_since_s is not None
    assert "DeepGEMM warm-up: 594 of 1261 kernels (api), for " in text
    run.append("first token after 3.0 s", state="ready")
    assert status(run).progress is None


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("echo '0, 97, 402.30, 71680, 60'; echo '1, 0, 70.1, 5, 40'", "GPU 0 of here: 70.0 GiB of 140.4 GiB used\n"),
        ("echo '0, 97, 40.30, [N/A], 60'", "GPU 0 of here: nvidia-smi does not tell its memory\n"),
        ("echo no driver >&2; exit 9", "GPUs of here: their memory is unknown: "),
    ],
)
def test_status_says_the_memory_of_the_runs_gpus(
    held: Callable[[Plan], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, line: str
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    gpus = [Gpu(index=each, kind="h200", memory_bytes=143771 << 20) for each in (0, 1)]
    plan = plan_on([Host(name="here", memory_bytes=1, gpus=gpus)])
    plan = plan.with_(placements=[each.with_(gpus=[0]) for each in plan.placements])
    now, text = told(held(plan))
    assert line in text
    assert "GPU 1" not in text
    assert [each.used_bytes for each in now.gpus] == [71680 << 20] * ("70.0" in line) + [None] * ("not tell" in line)
    assert bool(now.gpus_unknown) == ("unknown" in line)
