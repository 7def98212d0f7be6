"""Load generators against a server that knows when it sent each token. Prints errors against the truth, and targets.

python benchmarks/bench_accuracy.py [--levels 64,1024] [--runs 3] [--vllm VENV/bin/vllm --tokenizer MODEL]
                                    [--guidellm BIN] [--aiperf BIN] [--traps] [--json OUT]

The server (stream-truth, compiled here with gcc) is pinned to one core, the client to another. CPU-seconds are those of
the whole client (its helpers too) less those of the same client with one request, so that imports do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 128
TTFT_MS = 200
INPUT_TOKENS = 64
LARGE = 4096
SOURCE = Path(__file__).parent / "stream-truth" / "mockserver.c"

# Issue 5: most error at a level, percent. TPOT and ITL at 1,024 only.
TARGETS = {
    "ttft mean": {1024: 2.0, 4096: 5.0, 8192: 5.0},
    "ttft p99": {1024: 5.0, 4096: 10.0, 8192: 10.0},
    "tpot mean": {64: 0.2, 1024: 0.2, 4096: 0.2, 8192: 0.2},
    "itl p99": {1024: 2.0},
}
CPU_TARGET = 2.5
MEMORY_TARGET_MB, START_TARGET_S = 100, 1.0
TRAP_TARGET = 1.0


def itl_ms(level: int) -> int:
    return 200 if level >= LARGE else 20


@dataclass
class Measured:
    """What a client said, and what it took. Latencies in ms by `metric statistic`."""

    said: dict[str, float]
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    started_at: float = 0.0


@dataclass
class Client:
    """A load generator: its command for a level and requests, and how its numbers are read from what it left."""

    name: str
    command: Callable[[str, int, int, Path], list[str]]
    read: Callable[[str, Path], dict[str, float]]
    idle_cpu_s: float = 0.0


class Truth:
    """The server, on a core of its own."""

    def __init__(self, binary: Path, core: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["taskset", "-c", str(core), str(binary), str(self.port), str(TTFT_MS * 1000), "20000", str(TOKENS)]
        self.process = subprocess.Popen(command)
        self.base_url = f"http://127.0.0.1:{self.port}"
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError("stream-truth did not start")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.base_url}{path}", timeout=60) as reply:
            return str(reply.read().decode())

    def set(self, level: int, *, per_chunk: int = 1, role: int = 1) -> None:
        self.get(f"/set?ttft={TTFT_MS * 1000}&itl={itl_ms(level) * 1000}&k={per_chunk}&role={role}")

    def stats(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.get("/stats"))
        return document


@contextlib.contextmanager
def truth_server(core: int) -> Iterator[Truth]:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "mockserver"
        subprocess.run(["gcc", "-O2", "-w", "-o", str(binary), str(SOURCE), "-lm"], check=True)
        server = Truth(binary, core)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()


def run(client: Client, server: Truth, level: int, requests: int, core: int) -> Measured:
    """Run a client on its core and take what it used, its helpers included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argv = ["taskset", "-c", str(core), *client.command(server.base_url, level, requests, folder)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            started = time.monotonic()
            process = subprocess.Popen(argv, stdout=out, stderr=err, env=environment, cwd=folder)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{client.name} ended with {process.returncode}: {(folder / 'err').read_text()[-800:]}")
        said = client.read((folder / "out").read_text(), folder)
    return Measured(said, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, started)


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
            raise RuntimeError(f"overspan: failed requests {point['requests']}")
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

    return Client("vllm bench serve", command, read)


def aiperf(binary: str, tokenizer: str) -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        where = ["-m", "mock", "-u", url, "--endpoint-type", "chat", "--streaming", "--tokenizer", tokenizer]
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

    return Client("aiperf", command, read)


def guidellm(binary: str, tokenizer: str) -> Client:
    def command(url: str, level: int, requests: int, folder: Path) -> list[str]:
        data = f"prompt_tokens={INPUT_TOKENS},output_tokens={TOKENS}"
        where = ["--target", url, "--model", "mock", "--processor", tokenizer, "--data", data]
        load = ["--profile", "concurrent", "--rate", str(level), "--max-requests", str(requests)]
        return [binary, "benchmark", "run", *where, *load, "--output-dir", str(folder), "--outputs", "json"]

    def read(out: str, folder: Path) -> dict[str, float]:
        document = json.loads(next(folder.glob("*.json")).read_text())
        metrics = document["benchmarks"][0]["metrics"]
        names = {"ttft": "time_to_first_token_ms", "tpot": "inter_token_latency_ms"}
        said: dict[str, float] = {}
        for metric, name in names.items():
            ok = metrics[name]["successful"]
            said |= {f"{metric} mean": ok["mean"], f"{metric} p99": ok["percentiles"]["p99"]}
        return said

    return Client("guidellm", command, read)


def error_percent(said: float | None, true: float) -> float | None:
    return None if said is None else (said - true) / true * 100


def true_values(stats: dict[str, Any]) -> dict[str, float]:
    wanted = [(metric, which) for metric in ("ttft", "tpot", "itl") for which in ("mean", "p99")]
    return {f"{metric} {which}": stats[f"{metric}_ms"][which] for metric, which in wanted if stats[f"{metric}_ms"]}


def measure(client: Client, server: Truth, level: int, core: int) -> dict[str, Any]:
    server.set(level)
    requests = level if level >= LARGE else max(2 * level, 256)
    measured = run(client, server, level, requests, core)
    stats = server.stats()
    true = true_values(stats)
    tokens = requests * TOKENS
    return {
        "errors": {name: error_percent(measured.said.get(name), value) for name, value in true.items()},
        "cpu_s_per_1k_tokens": max(measured.cpu_s - client.idle_cpu_s, 0.0) / tokens * 1000,
        "peak": stats["peak_active"],
        "memory_mb": measured.memory_mb,
        "first_request_s": stats["t_first_req"] - measured.started_at,
        "server_late_ms": stats["late_mean_us"] / 1000,
    }


def median(rows: list[dict[str, Any]], *path: str) -> float | None:
    values: list[float] = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key)
        if value is None:
            return None
        values.append(value)
    return statistics.median(values)


def verdicts(level: int, rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Each target that this level has, met or missed by Overspan's median of the runs."""
    ours, said = rows["overspan"], []
    for metric, limits in TARGETS.items():
        off = median(ours, "errors", metric)
        if level in limits and off is not None:
            said.append(f"{metric}: {off:+.2f} % (at most {limits[level]} %): {_met(abs(off) <= limits[level])}")
    peak = median(ours, "peak")
    said.append(f"peak streams: {peak:.0f} of {level}: {_met(peak == level)}")
    cpu = median(ours, "cpu_s_per_1k_tokens") or 0.0
    theirs = median(rows["vllm bench serve"], "cpu_s_per_1k_tokens") if "vllm bench serve" in rows else None
    if theirs is not None and cpu:
        said.append(
            f"CPU a token: {theirs / cpu:.1f}x less than vllm's ({CPU_TARGET}x): {_met(theirs / cpu >= CPU_TARGET)}"
        )
    memory, first = median(ours, "memory_mb") or 0.0, median(ours, "first_request_s") or 0.0
    said.append(f"memory {memory:.0f} MB (under {MEMORY_TARGET_MB}): {_met(memory < MEMORY_TARGET_MB)}")
    said.append(f"first request after {first:.2f} s (under {START_TARGET_S}): {_met(first < START_TARGET_S)}")
    return said


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def show(level: int, rows: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{level} streams, ITL {itl_ms(level)} ms: error against the truth, median of runs")
    columns = ["ttft mean", "ttft p99", "tpot mean", "tpot p99", "itl p99"]
    print(f"{'client':18}" + "".join(f"{name:>12}" for name in columns) + f"{'CPU-s/1k':>11}{'peak':>7}{'MB':>6}")
    for name, runs in rows.items():
        cells = [median(runs, "errors", column) for column in columns]
        shown = "".join(f"{'-':>12}" if cell is None else f"{cell:>+11.2f}%" for cell in cells)
        cpu, peak, memory = (median(runs, key) for key in ("cpu_s_per_1k_tokens", "peak", "memory_mb"))
        print(f"{name:18}{shown}{cpu:11.4f}{peak:7.0f}{memory:6.0f}")
    late = max(row["server_late_ms"] for runs in rows.values() for row in runs)
    print(f"the server itself sent its tokens up to {late:.2f} ms late on average in a run")
    for line in verdicts(level, rows):
        print(f"  target {line}")


def traps(server: Truth, core: int) -> None:
    """The two traps at 64 streams: a role event at once, and 32 tokens a chunk."""
    print("\ntraps, 64 streams, overspan")
    for name, metric, per_chunk, role in (
        ("early role event", "ttft mean", 1, 2),
        ("32 tokens a chunk", "tpot mean", 32, 1),
    ):
        server.set(64, per_chunk=per_chunk, role=role)
        said = run(overspan(), server, 64, 256, core).said[metric]
        # The server's own tpot divides by all tokens but one, which is the trap itself: its setting is the truth here.
        true = true_values(server.stats())[metric] if metric == "ttft mean" else float(itl_ms(64))
        off = error_percent(said, true) or 0.0
        print(f"  {name}: {metric} {said:.3f} of {true:.3f} ms, {off:+.2f} %: {_met(abs(off) <= TRAP_TARGET)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="64,1024", help="add 4096,8192 on a calm machine with the files for it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    for peer in ("vllm", "guidellm", "aiperf"):
        parser.add_argument(f"--{peer}", help=f"the {peer} command to measure beside Overspan")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, which the other clients need")
    parser.add_argument("--traps", action="store_true")
    parser.add_argument("--json", type=Path, help="write every run here")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    clients = [overspan()]
    for binary, make in ((given.vllm, vllm), (given.guidellm, guidellm), (given.aiperf, aiperf)):
        clients += [make(binary, given.tokenizer)] if binary else []
    everything: dict[int, dict[str, list[dict[str, Any]]]] = {}
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with truth_server(given.server_core) as server:
        for client in clients:
            server.set(64)
            client.idle_cpu_s = run(client, server, 1, 1, given.client_core).cpu_s
        for level in [int(level) for level in given.levels.split(",")]:
            rows: dict[str, list[dict[str, Any]]] = {client.name: [] for client in clients}
            for _ in range(given.runs):  # interleaved, so that a busy moment hits all of them
                for client in clients:
                    rows[client.name].append(measure(client, server, level, given.client_core))
            everything[level] = rows
            show(level, rows)
        if given.traps:
            traps(server, given.client_core)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))
    print(f"\nload average {os.getloadavg()[0]:.2f} at the end")


if __name__ == "__main__":
    main()
