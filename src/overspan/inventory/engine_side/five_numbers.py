"""Five numbers of a machine; run by the engine's Python, with what is installed there.

    python five_numbers.py [RANKS | --device]

Memory copy, matrix product, all-reduce latency and bandwidth, launch overhead: with torch on its GPUs (NCCL) or its CPU
(gloo), else with numpy, else with Python alone. One JSON object on stdout; what could not be measured is named in
`missing` with the reason. RANKS: processes of the all-reduce; all GPUs, or 2 on a CPU, where not given. --device:
measure nothing, and say whether torch can use a GPU here.
"""

import json
import os
import socket
import statistics
import sys
import time

COPY_BYTES = 256 * 2**20
SMALL_BYTES = 8 * 1024  # a decode step's message: one token of a hidden size of 4096 in BF16
LARGE_BYTES = 64 * 2**20
REPEATS = 5
LAUNCHES = 2000


def _best(run, repeats=REPEATS):
    """The quickest of some runs: what the machine can do while others leave it alone."""
    run()
    return min(_timed(run) for _ in range(repeats))


def _timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _with_torch(torch, ranks):
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    wait = torch.cuda.synchronize if cuda else lambda: None
    source = torch.ones(COPY_BYTES * (4 if cuda else 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy():
        target.copy_(source)
        wait()

    found = {"with": f"torch {torch.__version__}", "copy_bytes_per_s": 2 * source.numel() / _best(copy), "rates": {}}
    side = 8192 if cuda else 512
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        left = torch.randn(side, side, device=device).to(dtype)
        right = torch.randn(side, side, device=device).to(dtype)

        def product(left=left, right=right):
            torch.matmul(left, right)
            wait()

        found["rates"][name] = 2 * side**3 / _best(product)
    value = torch.zeros(1, device=device)

    def launches():
        for _ in range(LAUNCHES):
            value.add_(1.0)

    found["launch_s"] = _best(launches) / LAUNCHES
    wait()
    missing = {}
    ranks = ranks or (torch.cuda.device_count() if cuda else 2)
    if ranks < 2:
        missing["all_reduce"] = "one GPU alone: there is nothing to reduce with"
    elif cuda and ranks > torch.cuda.device_count():
        missing["all_reduce"] = f"{ranks} ranks were asked for and there are {torch.cuda.device_count()} GPUs"
    else:
        found |= _all_reduce(torch, ranks, cuda)
    gpu = {}
    if cuda:
        held = torch.cuda.get_device_properties(0)
        gpu = {"gpu": held.name, "memory_bytes": held.total_memory, "capability": f"{held.major}.{held.minor}"}
        gpu["gpus"] = torch.cuda.device_count()
    return found | gpu | {"device": "cuda" if cuda else "cpu", "missing": missing}


def _all_reduce(torch, ranks, cuda):
    import torch.multiprocessing as processes

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    answers = processes.get_context("spawn").SimpleQueue()
    processes.spawn(_rank_main, (ranks, port, cuda, answers), nprocs=ranks)
    latency, bandwidth = answers.get()
    return {"ranks": ranks, "all_reduce_latency_s": latency, "all_reduce_bytes_per_s": bandwidth}


def _rank_main(rank, ranks, port, cuda, answers):
    import torch
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=ranks)
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    small = torch.zeros(SMALL_BYTES // 2, dtype=torch.bfloat16, device=device)
    large = torch.zeros(LARGE_BYTES // 2, dtype=torch.bfloat16, device=device)
    wait = torch.cuda.synchronize if cuda else dist.barrier

    def reduce(value, times):
        for _ in range(times):
            dist.all_reduce(value)
        wait()

    reduce(small, 20)
    latency = statistics.median(_timed(lambda: reduce(small, 50)) / 50 for _ in range(REPEATS))
    reduce(large, 1)
    seconds = statistics.median(_timed(lambda: reduce(large, 2)) / 2 for _ in range(REPEATS))
    if rank == 0:
        # Each rank sends 2 (n - 1) / n of the message over its link (nccl-tests, "bus bandwidth").
        answers.put((latency, 2 * (ranks - 1) / ranks * LARGE_BYTES / seconds))
    dist.destroy_process_group()


def _with_numpy(numpy):
    source = numpy.ones(COPY_BYTES, dtype=numpy.uint8)
    target = numpy.empty_like(source)
    copy = _best(lambda: numpy.copyto(target, source))
    left = numpy.random.default_rng(0).random((1024, 1024), dtype=numpy.float32)
    product = _best(lambda: left @ left)
    return {
        "with": f"numpy {numpy.__version__}",
        "device": "cpu",
        "copy_bytes_per_s": 2 * COPY_BYTES / copy,
        "rates": {"fp32": 2 * 1024**3 / product},
        "missing": {"all_reduce": "no torch here", "launch": "no torch here", "bf16": "numpy has no BF16 product"},
    }


def _alone():
    source, target = bytearray(b"1") * COPY_BYTES, bytearray(COPY_BYTES)

    def copy():
        target[:] = source

    missing = dict.fromkeys(("matrix product", "all_reduce", "launch"), "neither torch nor numpy here")
    return {
        "with": f"Python {sys.version.split()[0]} alone",
        "device": "cpu",
        "copy_bytes_per_s": 2 * COPY_BYTES / _best(copy),
        "rates": {},
        "missing": missing,
    }


def _device():
    try:
        import torch
    except ImportError as error:
        return {"device": "cpu", "why": f"has no torch that can be imported ({str(error)[:200]})"}
    if torch.cuda.is_available():
        return {"device": "cuda", "why": ""}
    built = torch.version.cuda or torch.version.hip
    why = f"is built for {built}, and finds no GPU here" if built else "is built for CPUs"
    return {"device": "cpu", "why": f"has torch {torch.__version__}, which {why}"}


def _measure(ranks):
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        return _with_torch(torch, ranks)
    try:
        import numpy
    except ImportError:
        return _alone()
    return _with_numpy(numpy)


if __name__ == "__main__":
    if sys.argv[1:] == ["--device"]:
        print(json.dumps(_device()))
    else:
        print(json.dumps(_measure(int(sys.argv[1]) if len(sys.argv) > 1 else 0)))
