"""Run by the engine's Python, `collectives.py RANKS NUMBERS ROUNDS`: microseconds through gloo, and by memory."""

import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from overspan_vllm.cpu_shared_memory_collectives import shared_by


def main(ranks: int, numbers: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(1, ranks):
            if os.fork() == 0:
                measure(rank, ranks, numbers, rounds, folder)
                os._exit(0)
        print(*measure(0, ranks, numbers, rounds, folder))
        for _ in range(1, ranks):
            os.wait()


def measure(rank: int, ranks: int, numbers: int, rounds: int, folder: str) -> list[float]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    tensor, took = torch.zeros(numbers), []
    for by in (dist, shared_by(dist.group.WORLD, rank, ranks)):
        for _ in range(20):
            by.all_reduce(tensor, group=dist.group.WORLD)
        dist.barrier()
        started = time.perf_counter()
        for _ in range(rounds):
            by.all_reduce(tensor, group=dist.group.WORLD)
        took.append((time.perf_counter() - started) / rounds * 1e6)
        dist.barrier()
    return took


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
