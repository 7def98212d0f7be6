"""A full-size model with synthetic weights in several layouts on this machine's GPUs, measured with `overspan bench`.

    python full_size.py CATALOGUE_MODEL --out DIR --layouts tp2,pp2,tep2 --users 1,8,32 --outputs 128,uniform:32-224

No checkpoint is read: the plugin's load format draws the weights on the GPUs. DIR/full.json is rewritten after each
point, so that nothing is lost when time runs out; DIR/logs.txt holds the last lines of each server's log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import engine  # type: ignore[import-not-found]  # beside this file

from overspan.catalog import models
from overspan.catalog.words import WORDS
from overspan.provision.synthetic import write_config

INPUT = 1024
CALIBRATED_FROM = 32
"""Users from which the load generator is calibrated first: device time is short, and few users do not bind it."""
FLAGS = ["--served-model-name=full", "--load-format=synthetic", "--max-model-len=4096", "--max-num-seqs=64"]
FLAGS += ["--max-num-batched-tokens=8192", "--gpu-memory-utilization=0.8", "--dtype=bfloat16"]
# A fixed cache: what other engines on these GPUs take or give back then changes nothing.
FLAGS += [
    "--kv-cache-memory-bytes=17179869184",
    "--no-enable-prefix-caching",
    "--cudagraph-capture-sizes",
    "1",
    "2",
    "4",
    "8",
    "16",
    "24",
    "32",
    "48",
    "64",
]


def main() -> None:
    """Start each layout, measure each number of users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layouts", default="tp2,pp2,tep2")
    parser.add_argument("--users", default="1,8,32")
    parser.add_argument("--outputs", default="128", help="lengths of answers, as `overspan bench` takes them")
    parser.add_argument("--ready-s", type=float, default=330)
    parser.add_argument("--budget-s", type=float, default=570, help="nothing is begun that would end after it")
    given = parser.parse_args()
    started = time.monotonic()
    results: dict[str, Any] = {
        "versions": engine.versions(),
        "model": given.model,
        "input_tokens": INPUT,
        "flags": FLAGS + engine.COMMON,
        "layouts": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        write_config(models.config_of(given.model), folder, WORDS)
        for at, layout in enumerate(given.layouts.split(",")):
            left = given.budget_s - (time.monotonic() - started)
            if left < 60:
                print(layout, "left out: no time", flush=True)
                break
            found: dict[str, Any] = {"layout": layout, "points": []}
            results["layouts"].append(found)
            _layout(folder, layout, found, given, min(given.ready_s, left - 20), 19000 + 40 * at, results)


def _layout(
    folder: Path,
    layout: str,
    found: dict[str, Any],
    given: argparse.Namespace,
    ready_s: float,
    port: int,
    results: dict[str, Any],
) -> None:
    log = Path(tempfile.mkdtemp(), f"{layout}.log")
    began = time.monotonic()
    try:
        with engine.serving(
            folder, [*FLAGS, *engine.layout_flags(layout)], port, log, ready_s, {"VLLM_PLUGINS": "overspan"}
        ) as url:
            found["ready_s"] = time.monotonic() - began
            print(layout, "ready after", round(found["ready_s"]), flush=True)
            with engine.quiet(alone=True):
                for users, output in itertools.product(map(int, given.users.split(",")), given.outputs.split(",")):
                    found["points"].append(_bench(url, users, output))
                    (given.out / "full.json").write_text(json.dumps(results))
                    print(layout, users, output, _said(found["points"][-1]), flush=True)
    except (engine.EngineFailed, subprocess.TimeoutExpired) as error:
        found["error"] = str(error)
        print(layout, found["error"], flush=True)
    (given.out / "full.json").write_text(json.dumps(results))
    with (given.out / "logs.txt").open("a") as logs:
        logs.write(f"==== {layout}\n{log.read_text(errors='replace')[-200_000:]}\n")


def _said(point: dict[str, Any]) -> str:
    if "error" in point:
        return str(point["error"])
    result = point["result"][0]
    return json.dumps({name: result[name] for name in ("requests", "ttft_ms", "tpot_ms", "itl_ms", "duration_s")})


def _bench(url: str, users: int, output: str) -> dict[str, Any]:
    """One point, as `overspan bench --json` prints it; its warm-up is not counted."""
    command = [sys.executable, "-m", "overspan", "bench", "--base-url", url, "-c", str(users), "--json"]
    command += ["--requests", str(max(3, 3 * users)), "--warmup", str(users), "--endpoint", "completions"]
    command += ["--input-tokens", str(INPUT), "--output-tokens", output, "--seed", "1"]
    if users < CALIBRATED_FROM:
        command.append("--no-calibration")
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    try:
        return {"users": users, "output_tokens": output, "result": json.loads(done.stdout), "said": done.stderr[-600:]}
    except ValueError:
        return {"users": users, "output_tokens": output, "error": done.stderr[-1500:]}


if __name__ == "__main__":
    main()
