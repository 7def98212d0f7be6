"""Time of `overspan engine install cpu` from empty caches, beside that of another checkout, one after the other.

    python benchmarks/engine_install.py --before ../old --rounds 2

The caches of uv, of pip and of Overspan are new for every installation and deleted after it. Seconds of the wall depend
on what else the machine does; seconds of the CPU hardly do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def installed(checkout: Path, engine: str) -> tuple[float, float]:
    """Seconds of the wall and of the CPU that one installation takes."""
    with tempfile.TemporaryDirectory(prefix="engine-install-") as caches:
        env = {
            **os.environ,
            "PYTHONPATH": str(checkout / "src"),
            "OVERSPAN_CACHE": f"{caches}/overspan",
            "UV_CACHE_DIR": f"{caches}/uv",
            "PIP_CACHE_DIR": f"{caches}/pip",
        }
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.executable, "-m", "overspan", "engine", "install", engine], env=env, check=True)
        wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print each installation, and the ratio of the best of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    sides = {"before": asked.before.resolve(), "now": HERE}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(asked.rounds):
        for side, checkout in sides.items():
            times[side].append(installed(checkout, asked.engine))
            wall, cpu = times[side][-1]
            print(f"{side:6} {wall:6.1f} s, {cpu:6.1f} s of the CPU; load {os.getloadavg()[0]:.1f}", flush=True)
    for at, what in enumerate(("wall", "CPU")):
        before, now = (min(each[at] for each in times[side]) for side in sides)
        print(f"best of {asked.rounds}, {what}: {before:.1f} s before, {now:.1f} s now, ratio {now / before:.2f}")


if __name__ == "__main__":
    main()
