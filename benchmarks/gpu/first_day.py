"""A new user's first benches on a machine with a GPU: is the second bench the first one again, or are both marked?

    python benchmarks/gpu/first_day.py qwen3-30b-a3b gpt-oss-120b

For each model: `overspan up --weights synthetic`, the same bench twice, then guardian and supervisor are killed at once
and the seconds counted until the GPU's memory is free. What was seen on a lent H200: benchmarks/data/gpu/README.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from overspan.store.run_folder import SUPERVISOR, open_run

LOAD = ["--input-tokens", "1024", "--output-tokens", "uniform:32-224", "-c", "32", "--duration", "12", "--warmup", "64"]
WATCHED_S = 15.0


def overspan(*words: str) -> str:
    """Run a command; its output. Its messages go to this script's standard error."""
    return subprocess.run(
        [sys.executable, "-m", "overspan", *words], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def bench(name: str, *more: str) -> dict[str, Any]:
    """The one point of a bench."""
    point: dict[str, Any] = json.loads(overspan("bench", name, *LOAD, *more, "--json"))[0]
    return point


def used_mib() -> int:
    """Memory in use on all GPUs, MiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.split()))


def kill_watchers(name: str, before_mib: int) -> float | None:
    """Seconds until the GPU's memory is as it was before the run; None where it was not within `WATCHED_S`."""
    watchers = open_run(name).note(SUPERVISOR)
    begun = time.monotonic()
    for which in ("guardian", "pid"):
        os.kill(watchers[which], signal.SIGKILL)
    while (took := time.monotonic() - begun) < WATCHED_S:
        if used_mib() <= before_mib:
            return took
    return None


def main() -> None:
    """Print a table, a row a bench."""
    print("model           bench  tok/s   TPOT ms  TTFT ms  stood still  marked")
    for model in sys.argv[1:]:
        before, name = used_mib(), f"first-day-{os.getpid()}"
        overspan("up", model, "--weights", "synthetic", "--name", name)
        # openai_harmony fetches gpt-oss's vocabulary at the first chat: a machine without network measures completions.
        more = ["--endpoint", "completions"] if "gpt-oss" in model else []
        for number in (1, 2):
            point = bench(name, *more)
            still = f"{point['pauses']['count']} x, {point['pauses']['seconds']:.1f} s"
            print(
                f"{model:<16}{number:>5}{point['output_tokens_per_s']:>8.0f}{point['tpot_ms']['mean']:>9.1f}"
                f"{point['ttft_ms']['mean']:>9.0f}  {still:<13}{'yes' if point['disturbed'] else 'no'}"
            )
        free = kill_watchers(name, before)
        print(f"both watchers killed: GPU {'not free' if free is None else f'free after {free:.2f} s'}")
        overspan("stop", name)


if __name__ == "__main__":
    main()
