"""What a collective costs ranks of one machine: through gloo's sockets, and through memory as our vLLM plugin has it.

Both in the same processes, one after the other, with the engine's own torch. Prints a table and the ratio of each row:
    python benchmarks/collectives.py [--rounds 500]
It needs `overspan engine install cpu`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from overspan.provision import engines, plugin

ROWS = [(2, 256), (2, 65536), (4, 256), (4, 65536)]
"""Ranks, and float32 numbers of each: one token of a twin, 128 tokens of a small model."""
SIDE = Path(__file__).parent / "engine_side" / "collectives.py"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=500)
    rounds = options.parse_args().rounds
    python = engines.find("cpu").python
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; an all-reduce, in microseconds")
    print("ranks  numbers    gloo  memory  gloo/memory")
    with tempfile.TemporaryDirectory() as site:
        plugin.place(Path(site))
        environment = {**os.environ, "PYTHONPATH": site, "OMP_NUM_THREADS": "1"}
        for ranks, numbers in ROWS:
            command = [str(python), str(SIDE), str(ranks), str(numbers), str(rounds)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            gloo, memory = map(float, done.stdout.split())
            print(f"{ranks:5}  {numbers:7}  {gloo:6.0f}  {memory:6.0f}  {gloo / memory:11.1f}")


if __name__ == "__main__":
    main()
