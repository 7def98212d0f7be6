"""The planner beside AIConfigurator, on the same rows and for the same question, in one run.

    python3.12 -m venv PEER && PEER/bin/pip install aiconfigurator==0.12.0
    python benchmarks/beside_aiconfigurator.py PEER/bin/python

Rows: benchmarks/data/minimax_m2.5_measured.csv. AIConfigurator gets them as it labels them itself, in its sample of
measurements (`silicon_sample.csv`) and its adapter (`sdk/config_adapter/inferencex.py`): checkpoint, formats, degrees,
lengths, and users / data-parallel ranks as the batch, by its own command `estimate`; the planner reads them by
planner_accuracy.row, and answers each kind of GPU with constants that were fitted without it.

The search: the best layout of 8 H200 for a load within limits, by each tool's command line, in CPU seconds and peak
memory of a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from overspan.planner import predict

own: Any = importlib.import_module("planner_accuracy")  # beside this file

PEER_MODELS = {"fp4": "nvidia/MiniMax-M2.5-NVFP4", "fp8": "MiniMaxAI/MiniMax-M2.5"}
DEGREES = {"tp_size": "tp", "attention_dp_size": "dp", "moe_tp_size": "moe_tp", "moe_ep_size": "moe_ep"}
PEER_FORMATS = {"fp4": "nvfp4", "fp8": "fp8"}
"""As its own sample and adapter have it. With `fp8_block`, which the checkpoint is in, it answers three times too much
on B300, for which it has no such tables."""

HERE = Path(__file__).parent


def peer_row(line: dict[str, str], database: str) -> dict[str, Any]:
    """One line of the table as AIConfigurator takes it: its columns are its own."""
    degrees = {name: int(float(line[column])) for name, column in DEGREES.items()}
    return {
        "model": PEER_MODELS[line["precision"]],
        "system": f"{line['gpu']}_sxm",
        "backend_name": "vllm",
        "database_mode": database,
        "isl": int(line["isl"]),
        "osl": int(line["osl"]),
        "batch_size": max(1, int(line["concurrency"]) // degrees["attention_dp_size"]),
        **degrees,
        "gemm_quant_mode": PEER_FORMATS[line["precision"]],
        "moe_quant_mode": PEER_FORMATS[line["precision"]],
    }


def measured(command: list[str]) -> dict[str, Any]:
    """CPU seconds, peak memory in MB and output of a process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    # A process that starts this one alone, so that its peak is not hidden by an earlier child's.
    watch = (
        "import resource,subprocess as s,sys;d=s.run(sys.argv[1:],stdout=s.PIPE,stderr=s.DEVNULL);"
        "sys.stdout.buffer.write(d.stdout);u=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print('PEAK',u.ru_maxrss,file=sys.stderr);sys.exit(d.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, *command], capture_output=True, text=True, env=environment, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = next((int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("PEAK")), 0)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": round(cpu, 2), "peak_mb": round(peak / 1e3), "code": done.returncode, "out": done.stdout}


def errors(rows: list[Any], answers: list[dict[str, float]]) -> dict[str, float]:
    """Mean and median relative errors and the order of pairs, over the rows that were answered."""
    tpot = [abs(seen["tpot_ms"] / row.tpot_ms - 1) for row, seen in zip(rows, answers, strict=True)]
    ttft = [abs(seen["ttft_ms"] / row.ttft_ms - 1) for row, seen in zip(rows, answers, strict=True)]
    order = [
        (a["tpot_ms"] < b["tpot_ms"]) == (x.tpot_ms < y.tpot_ms)
        for (x, a), (y, b) in itertools.combinations(zip(rows, answers, strict=True), 2)
        if x.gpu == y.gpu and abs(x.tpot_ms / y.tpot_ms - 1) > 0.01
    ]
    return {
        "rows": len(rows),
        "tpot_mean": round(statistics.mean(tpot), 4),
        "tpot_median": round(statistics.median(tpot), 4),
        "ttft_mean": round(statistics.mean(ttft), 4),
        "order": round(statistics.mean(order), 4),
    }


def accuracy(peer: str, database: str, every: int) -> dict[str, Any]:
    """Both on every row that the peer answers, and the planner on all."""
    with (own.DATA / "minimax_m2.5_measured.csv").open() as file:
        lines = list(csv.DictReader(file))
    known = [own.row(line) for line in lines]
    rows = known[::every]
    asked = json.dumps([peer_row(line, database) for line in lines[::every]])
    done = subprocess.run([peer, str(HERE / "peer_rows.py")], input=asked, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    kinds = sorted({row.gpu for row in rows})
    constants = {kind: own.trained([row for row in known if row.gpu != kind]) for kind in kinds}
    ours = []
    for row in rows:
        seen = predict.predict(row.case, constants[row.gpu], row.capacity)
        ours.append({"tpot_ms": seen.tpot_ms, "ttft_ms": seen.ttft_ms})
    both = [index for index, answer in enumerate(told["answers"]) if "tpot_ms" in answer]
    reasons = sorted({answer["error"] for answer in told["answers"] if "error" in answer})
    chosen = [rows[index] for index in both]
    return {
        "overspan": errors(chosen, [ours[index] for index in both]) if both else None,
        "aiconfigurator": errors(chosen, [told["answers"][index] for index in both]) if both else None,
        "overspan_on_all": errors(rows, ours),
        "not_answered_by_peer": len(rows) - len(both),
        "why": reasons[:3],
    }


def search(peer: str) -> dict[str, Any]:
    """The same question to both command lines."""
    words = ["minimax-m2.5", "--gpu", "h200", "--gpus", "8", "--isl", "1024", "--osl", "1024", "--concurrency", "64"]
    ours = measured([sys.executable, "-m", "overspan", "plan", *words, "--slo", "ttft=2000,tpot=30", "--json"])
    theirs = measured([
        peer, "-m", "aiconfigurator.main", "cli", "default", "--model-path", "MiniMaxAI/MiniMax-M2.5",
        "--total-gpus", "8", "--system", "h200_sxm", "--backend", "vllm", "--isl", "1024", "--osl", "1024",
        "--ttft", "2000", "--tpot", "30", "--no-color",
    ])  # fmt: skip
    found = {name: {key: part[key] for key in ("cpu_s", "peak_mb", "code")} for name, part in
             (("overspan", ours), ("aiconfigurator", theirs))}  # fmt: skip
    best = json.loads(ours["out"])
    return found | {"overspan_best": best["layout"], "times_faster": round(theirs["cpu_s"] / ours["cpu_s"], 1)}


def main() -> None:
    """Print both as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", help="the Python that AIConfigurator is installed in")
    parser.add_argument("--database", default="HYBRID", help="its database mode: SILICON knows fewer rows")
    parser.add_argument("--every", type=int, default=1, help="take every n-th row: the peer needs seconds for each")
    parser.add_argument("--only", choices=["search", "accuracy"], help="one of the two")
    options = parser.parse_args()
    card: dict[str, Any] = {}
    if options.only != "accuracy":
        card["search"] = search(options.peer)
    if options.only != "search":
        card["accuracy"] = accuracy(options.peer, options.database, options.every)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
