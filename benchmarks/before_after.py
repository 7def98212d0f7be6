"""CPU of commands in two checkouts, in turns, in one run: is anything slower than before?

    python benchmarks/before_after.py OLD_CHECKOUT NEW_CHECKOUT [--rounds 9]

Both run by this Python, with their bytecode made first. Prints the least CPU of each and their ratio; ends with 1 when
one is slower by more than 5 %.
"""

from __future__ import annotations

import argparse
import compileall
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SLOWER = 1.05
LOG_LINES = 400_000
"""About 60 MB of a healthy engine's log."""


def commands(log: Path, failed: Path) -> dict[str, list[str]]:
    """What is timed, by name."""
    return {
        "overspan --help": ["--help"],
        "list": ["list"],
        "plan, two Sparks": ["plan", "minimax-m2.5-nvfp4", "--on", "two-sparks", "--show", "commands"],
        "plan, 8 H200 ranked": ["plan", "minimax-m2.5", "--gpu", "h200", "--gpus", "8", "--concurrency", "64"],
        "predict": ["predict", "minimax-m2.5", "--gpu", "h200", "--layout", "tep8"],
        "doctor, a small log": ["doctor", "--log", str(failed)],
        "doctor, 60 MB": ["doctor", "--log", str(log)],
        "sweep --dry-run": ["sweep", "m3-gb200-1k1k", "--on", "gb200-nvl72", "--dry-run"],
    }


def cpu_s(checkout: Path, words: list[str], state: str) -> float:
    """CPU seconds of one command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OVERSPAN_STATE": state}
    subprocess.run([sys.executable, "-m", "overspan", *words], env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Time every command in both checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    for checkout in (asked.old, asked.new):
        compileall.compile_dir(checkout / "src", quiet=1)
    slower = False
    with tempfile.TemporaryDirectory() as scratch:
        draw = random.Random(1)
        log, failed = Path(scratch, "engine.log"), Path(scratch, "failed.log")
        log.write_text("".join(_healthy(draw) for _ in range(LOG_LINES)))
        failed.write_text(_healthy(draw) + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
        for name, words in commands(log, failed).items():
            took: dict[Path, list[float]] = {asked.old: [], asked.new: []}
            for _ in range(asked.rounds):
                for checkout, times in took.items():
                    times.append(cpu_s(checkout, words, scratch))
            old, new = min(took[asked.old]), min(took[asked.new])
            slower |= new > SLOWER * old
            print(f"{name:22} {old:.3f} s before, {new:.3f} s after: {new / old:.2f}x", flush=True)
    return int(slower)


def _healthy(draw: random.Random) -> str:
    prompt, generation = draw.random() * 1e4, draw.random() * 1e4
    return (
        f"INFO 11-30 12:00:{draw.randrange(60):02d} [loggers.py:123] Engine 000: Avg prompt throughput: {prompt:.1f} "
        f"tokens/s, Avg generation throughput: {generation:.1f} tokens/s, Running: {draw.randrange(64)} reqs\n"
    )


if __name__ == "__main__":
    sys.exit(main())
