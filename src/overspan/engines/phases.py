"""What vLLM says in its log of how far its start is: the one home of these lines.

Sources, unless a phase names its own: the log calls and progress bars of vLLM 0.26 and 0.32 (vllm/v1, vllm/compilation,
vllm/model_executor). What it writes does not depend on the device, so that a CPU's log has the same words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BAR: Final = r"[^/\r\n]{0,400}?(?P<at>\d+)/(?P<of>\d+) \["
"""The counts of a bar of tqdm, whose own form is `desc: 40%|####  | 4/10 [00:01<00:02, 2.09it/s]`."""


@dataclass(frozen=True)
class Phase:
    """One stretch of an engine's start.

    Attributes:
        name: Lines of one name are one phase.
        line: Found in a line of the log; its groups stand in `words`.
        words: What a person is told.
        once: What only a first start costs, as the end of a sentence.
    """

    name: str
    line: re.Pattern[str]
    words: str
    once: str = ""


@dataclass(frozen=True)
class SeenPhase:
    """A phase as a line tells it, for a person: `weights: 12 of 26 shards`."""

    name: str
    text: str
    once: str


_KEPT: Final = "the first start alone takes it: what it makes is kept in the engine's cache folder"


def _phases(*found: tuple[str, str, str] | tuple[str, str, str, str]) -> tuple[Phase, ...]:
    return tuple(Phase(name, re.compile(line), words, *once) for name, line, words, *once in found)


VLLM: Final = _phases(
    ("start", r"non-default args: |vLLM API server version", "the API server reads its settings"),
    ("core", r"Initializing a V1 LLM engine", "the engine core starts"),
    ("nodes", r"Waiting for \d+ local, \d+ remote core engine proc", "waiting for engine cores of all nodes"),
    ("nodes", r"Waiting for READY message from DP Coordinator", "waiting for the coordinator of data parallelism"),
    # Ray 2.60: ray/_private/worker.py, ray/scripts/scripts.py.
    ("ray", r"Local node IP: |Ray runtime started|Connecting to existing Ray cluster", "Ray starts and its nodes join"),
    ("ray", r"Started a local Ray instance|Connected to Ray cluster", "Ray is connected"),
    ("ray", r"Creating a new placement group|Waiting for creating a placement group", "Ray places the ranks"),
    ("ranks", r"world_size=\d+ rank=\d+ local_rank=\d+ .*backend=(?P<by>\w+)", "ranks connect ({by})"),
    # NCCL 2.27: src/init.cc.
    ("ranks", r"vLLM is using nccl==|NCCL INFO .{0,200}Init START", "ranks connect (NCCL starts)"),
    ("ranks", r"NCCL INFO .{0,200}Init COMPLETE", "ranks are connected (NCCL)"),
    ("weights", r"Starting to load model", "weights: loading"),
    ("weights", rf"Loading [\w ]+ checkpoint shards: {_BAR}", "weights: {at} of {of} shards"),
    ("weights", rf"Loading safetensors using [\w ]+: {_BAR}", "weights: {at} of {of} files"),
    ("weights", r"Loading weights took|Model loading took", "weights are loaded"),
    ("compile", r"for vLLM's torch\.compile|Starting torch\.compile", "torch.compile", _KEPT),
    ("compile", r"Dynamo bytecode transform|Cache the graph of compile|Compiling a graph for", "torch.compile", _KEPT),
    ("memory", r"torch\.compile (and initial|takes)|Initial profiling/warmup run", "measuring what memory is left"),
    ("memory", r"Profiling CUDA graph memory: ", "measuring the memory of CUDA graphs"),
    ("cache", r"KV cache size: [\d,]+ tokens", "the KV cache is made"),
    ("deepgemm", rf"DeepGEMM warmup: {_BAR}", "DeepGEMM warm-up: {at} of {of} kernels", _KEPT),
    # FlashInfer 0.6: flashinfer/autotuner.py.
    ("autotune", r"\[Autotuner\]: Autotuning process starts", "autotuning of kernels", _KEPT),
    ("autotune", rf"\[AutoTuner\]: Tuning (?P<what>\w+): {_BAR}", "autotuning of {what}: {at} of {of}", _KEPT),
    ("autotune", r"\[Autotuner\]: Autotuning process ends", "kernels are tuned"),
    ("warm-up", rf"JIT kernel warmup \([^)]*\): {_BAR}", "warm-up of kernels: {at} of {of}", _KEPT),
    ("warm-up", r"JIT kernel warmup starting|Warming up ", "warm-up of kernels"),
    ("graphs", rf"Capturing CUDA graphs?(?: \([\w, -]+\))?: {_BAR}", "CUDA graph capture: {at} of {of}"),
    ("graphs", r"Graph capturing finished", "CUDA graphs are captured"),
    ("server", r"init engine \(profile, create kv cache, warmup model\) took", "the engine is made; its API starts"),
    ("server", r"Application startup complete", "the API answers; waiting for the first token"),
)  # fmt: skip


def seen_in(line: str, phases: tuple[Phase, ...]) -> SeenPhase | None:
    """What a line tells of the start; of several, as where a bar and a message share a line, the last."""
    found = [(match.start(), phase, match) for phase in phases for match in phase.line.finditer(line)]
    if not found:
        return None
    _, phase, match = max(found, key=lambda each: each[0])
    return SeenPhase(phase.name, phase.words.format(**match.groupdict()), phase.once)
