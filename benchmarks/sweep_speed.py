"""How long planning a sweep takes: the GB200 ladder, and a thousand points of it, each beside the bare interpreter.

    python benchmarks/sweep_speed.py

Targets (issue 6): the whole GB200 sweep under 2 s, 1,000 points under 5 s, with every command and estimate, as a
process of its own. Times of a machine with other work on it are upper bounds; `cpu` is what the process itself used.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
LADDER = ["1P1D DEP4->TEP8", "1P1D DEP4->DEP4", "1P2D DEP4->DEP4", "2P1D DEP4->DEP8", "2P1D DEP4->TEP8"]
LADDER += ["2P2D DEP4->TEP8", "3P2D DEP4->TEP8", "1P2D DEP4->DEP8", "2P2D DEP4->DEP8", "4P2D DEP4->DEP8"]


def thousand(folder: Path) -> Path:
    """Ten topologies, ten scenarios of different lengths (a deployment each), ten concurrencies."""
    scenarios = {f"s{number}": {"isl": 1024 + 256 * number, "osl": 512 + 64 * number} for number in range(10)}
    points = [{"topology": topology, "concurrency_range": {"start": 1, "end": 512}} for topology in LADDER]
    document = {"name": "thousand", "base": "minimax-m3-mxfp8", "inventory": "gb200-nvl72", "context_margin": 256,
                "scenarios": scenarios, "points": points}  # fmt: skip
    file = folder / "thousand.yaml"
    file.write_text(json.dumps(document))
    return file


def timed(*argv: str) -> tuple[float, float, str]:
    """Wall and CPU seconds of the quickest of some rounds, and what it printed."""
    best: tuple[float, float, str] = (1e9, 1e9, "")
    for _ in range(ROUNDS):
        before, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True, env=os.environ)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        best = min(best, (time.monotonic() - before, cpu, done.stdout))
    return best


def main() -> None:
    bare, bare_cpu, _ = timed("-c", "pass")
    print(f"bare interpreter: {bare:.3f} s ({bare_cpu:.3f} s cpu)")
    with tempfile.TemporaryDirectory() as scratch:
        cases = [("m3-gb200-1k1k", 2.0), ("m3-gb200-8k1k", 2.0), (str(thousand(Path(scratch))), 5.0)]
        for sweep, target in cases:
            wall, cpu, out = timed("-m", "overspan", "sweep", sweep, "--on", "gb200-nvl72", "--dry-run", "--json")
            count = len(json.loads(out)["points"])
            verdict = "within" if wall <= target else "OVER"
            name = Path(sweep).stem
            print(f"{name}: {count} points in {wall:.2f} s ({cpu:.2f} s cpu), {wall / bare:.0f}x the bare interpreter; "
                  f"{verdict} {target:g} s")  # fmt: skip


if __name__ == "__main__":
    main()
