"""The load generators that are measured: how each is asked for a load, and how its numbers are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TOKENS = 128
INPUT_TOKENS = 64
SLOW = {64: 1, 1024: 1, 4096: 1, 8192: 1}
"""Runs of clients that take minutes for one and are far off at 1,024 already."""


@dataclass
class Client:
    """A load generator: its command for a level and requests, and how its numbers are read from what it left."""

    name: str
    command: Callable[[str, int, int, Path], list[str]]
    read: Callable[[str, Path], dict[str, float]]
    runs: Mapping[int, int] = field(default_factory=dict)
    """How often it runs at a level; all runs at one that is not named."""
    offline: bool = True
    idle_cpu_s: float = 0.0


class CannotRun(Exception):
    """A client did not end well; says how, in its own words."""


def overspan() -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        size = [
            "--input-tokens",
            str(INPUT_TOKENS),
            "--output-tokens",
            str(TOKENS),
            "--no-calibration",
            "--shards",
            "1",
        ]
        load = ["-c", str(level), "-n", str(requests), *size, "--json"]
        return [sys.executable, "-m", "overspan", "bench", "--base-url", f"{url}/v1", *load]

    def read(out: str, folder: Path) -> dict[str, float]:
        point = json.loads(out)[0]
        if point["requests"]["failed"]:
            raise CannotRun(f"failed requests {point['requests']}")
        wanted = [(metric, which) for metric in ("ttft", "tpot", "itl") for which in ("mean", "p99")]
        return {f"{metric} {which}": point[f"{metric}_ms"][which] for metric, which in wanted}

    return Client("overspan", command, read)


def vllm(binary: str, tokenizer: str) -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        load = ["--max-concurrency", str(level), "--num-prompts", str(requests), "--ignore-eos", "--disable-tqdm"]
        size = ["--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(TOKENS)]
        where = ["--base-url", url, "--endpoint", "/v1/chat/completions", "--backend", "openai-chat", "--model", "mock"]
        out = ["--save-result", "--result-dir", str(folder), "--result-filename", "vllm.json"]
        percentiles = ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"]
        data = ["--dataset-name", "random", "--tokenizer", tokenizer]
        return [binary, "bench", "serve", *where, *data, *size, *load, *out, *percentiles]

    def read(out: str, folder: Path) -> dict[str, float]:
        document = json.loads((folder / "vllm.json").read_text())
        metrics = ("ttft", "tpot", "itl")
        means = {f"{metric} mean": document[f"mean_{metric}_ms"] for metric in metrics}
        return means | {f"{metric} p99": document[f"p99_{metric}_ms"] for metric in metrics}

    return Client("vllm bench serve", command, read, runs={4096: 1, 8192: 1})


def aiperf(binary: str, tokenizer: str) -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        where = ["-m", "mock", "-u", url, "--endpoint-type", "chat", "--streaming", "--tokenizer", tokenizer]
        where += ["--no-gpu-telemetry", "--no-server-metrics", "--use-server-token-count"]
        load = ["--concurrency", str(level), "--request-count", str(requests), "--ui", "none"]
        size = ["--isl", str(INPUT_TOKENS), "--osl", str(TOKENS), "--extra-inputs", "ignore_eos:true"]
        return [binary, "profile", *where, *load, *size, "--artifact-dir", str(folder / "aiperf")]

    def read(out: str, folder: Path) -> dict[str, float]:
        document = json.loads(next((folder / "aiperf").rglob("profile_export_aiperf.json")).read_text())
        names = {"ttft": "time_to_first_token", "tpot": "inter_token_latency"}
        return {
            f"{metric} {ours}": document[name][theirs]
            for metric, name in names.items()
            for ours, theirs in (("mean", "avg"), ("p99", "p99"))
        }

    # Told to stay offline, aiperf 0.13 takes the folder of a tokenizer for a name on the hub, and ends.
    return Client("aiperf", command, read, runs=SLOW, offline=False)


def guidellm(binary: str, tokenizer: str) -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        data = f"kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={TOKENS}"
        where = ["--backend", f"kind=openai_http,target={url},model=mock", "--data", data]
        load = ["--profile", f"kind=concurrent,streams={level}", "--constraint", f"kind=max_requests,count={requests}"]
        out = ["--output", f"kind=json,path={folder / 'guidellm.json'}", "--disable-console"]
        return [binary, "run", *where, "--tokenizer", f"kind=hf_auto,model={tokenizer}", *load, *out]

    def read(out: str, folder: Path) -> dict[str, float]:
        document = json.loads((folder / "guidellm.json").read_text())
        metrics = document["benchmarks"][0]["metrics"]
        names = {"ttft": "time_to_first_token_ms", "tpot": "inter_token_latency_ms"}
        said: dict[str, float] = {}
        for metric, name in names.items():
            ok = metrics[name]["successful"]
            said |= {f"{metric} mean": ok["mean"], f"{metric} p99": ok["percentiles"]["p99"]}
        return said

    return Client("guidellm", command, read, runs=SLOW)
