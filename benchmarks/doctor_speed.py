"""How fast the doctor reads: a large interleaved log of 16 ranks, beside `grep -c` with one fixed string over it.

The promise: at most 3 x grep's time x the number of literals that the doctor's automaton looks for at once, in less
than 300 MB. Prints both, and fails when the promise is broken.

    python benchmarks/doctor_speed.py [MEGABYTES]
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from overspan.doctor import diagnose
from overspan.doctor.book import load_book
from overspan.doctor.sources import LogSource

RANKS = 16
FACTOR = 3
MEMORY_MB = 300
NEEDLE = "No available shared memory broadcast block"
TEMPLATES = (
    "INFO 11-22 {clock} [loggers.py:236] Engine 000: Avg prompt throughput: {n}.4 tokens/s, Avg generation throughput: "
    "{n}.8 tokens/s, Running: 16 reqs, Waiting: 0 reqs, GPU KV cache usage: 3.1%, Prefix cache hit rate: 0.0%",
    'INFO:     10.0.0.{n}:47082 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    "DEBUG 11-22 {clock} [core.py:512] EngineCore loop active, {n} requests, step took {n} ms",
    "INFO 11-22 {clock} [gpu_worker.py:470] loaded shard {n} of 126, 1.53 GB, device cuda:0, dtype torch.bfloat16",
    "spark{n}:4775:4803 [0] NCCL INFO Channel {n}/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA",
    "WARNING 11-22 {clock} [fused_moe.py:1090] Using default MoE config. Performance might be sub-optimal! Config file "
    "not found at /usr/lib/python3/vllm/configs/E=256,N={n},device_name=NVIDIA_GB10.json",
)


def make_log(path: Path, megabytes: int) -> None:
    """Write an interleaved log of 16 ranks with one failure near its end."""
    draw = random.Random(8)
    block = []
    for _ in range(20_000):
        rank, n = draw.randrange(RANKS), draw.randrange(1, 999)
        clock = f"{draw.randrange(10, 24)}:{draw.randrange(10, 60)}:{draw.randrange(10, 60)}"
        block.append(f"(Worker_TP{rank} pid={2500 + rank}) " + draw.choice(TEMPLATES).format(clock=clock, n=n))
    text = ("\n".join(block) + "\n").encode()
    failure = b"(Worker_TP7 pid=2507) ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    with path.open("wb") as file:
        for _ in range(max(1, (megabytes << 20) // len(text))):
            file.write(text)
        file.write(failure)


def main() -> None:
    """Measure and print one JSON object."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        log = Path(folder) / "sixteen.log"
        make_log(log, megabytes)
        load_book()
        subprocess.run(["cat", str(log)], stdout=subprocess.DEVNULL, check=True)
        began = time.perf_counter()
        subprocess.run(["grep", "-c", "-F", NEEDLE, str(log)], stdout=subprocess.DEVNULL, check=False)
        grep_s = time.perf_counter() - began
        began = time.perf_counter()
        findings = diagnose([LogSource(str(log), path=log)])
        doctor_s = time.perf_counter() - began
        size = log.stat().st_size
    alternations = len(load_book().anchors)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {
        "bytes": size,
        "grep_s": round(grep_s, 3),
        "doctor_s": round(doctor_s, 3),
        "bytes_per_s": round(size / doctor_s),
        "alternations": alternations,
        "times_grep": round(doctor_s / grep_s, 1),
        "allowed_times_grep": FACTOR * alternations,
        "peak_memory_mb": round(memory_mb, 1),
        "root": findings[0].rule,
    }
    print(json.dumps(result))
    if findings[0].rule != "cuda-oom-load" or memory_mb > MEMORY_MB or doctor_s > FACTOR * alternations * grep_s:
        sys.exit("the promise is broken")


if __name__ == "__main__":
    main()
