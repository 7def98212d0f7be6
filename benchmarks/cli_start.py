"""`overspan --help` and `overspan list` beside the bare interpreter's start, in one run. Prints ratios and seconds.

python benchmarks/cli_start.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TARGETS_S = {"--help": 0.3, "list": 0.5}  # issue 2


def seconds(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        **{f"overspan {name}": [sys.executable, "-m", "overspan", name] for name in TARGETS_S},
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):  # interleaved, so that a busy moment hits all of them
        for name, argv in commands.items():
            taken[name].append(seconds(argv))
    bare = statistics.median(taken["python -c pass"])
    for name, times in taken.items():
        median = statistics.median(times)
        target = TARGETS_S.get(name.removeprefix("overspan "))
        verdict = "" if target is None else f"  target {target} s: {'met' if median <= target else 'MISSED'}"
        print(f"{name:18} {median:6.3f} s  {median / bare:5.1f}x the bare interpreter{verdict}")


if __name__ == "__main__":
    main()
