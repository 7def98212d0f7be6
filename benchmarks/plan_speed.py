"""`overspan plan` for two and four hosts beside sparkrun's dry run of the same model on two hosts, in one run.

    python benchmarks/plan_speed.py [--rounds 7] [--python python3.12]

Each is installed by pip into an environment of its own below the cache, and called by its command: sparkrun (PyPI,
Python 3.12) once, this checkout anew each time. sparkrun is spared what a dry run needs no network for: look-ups at the
Hugging Face hub are switched off (HF_HUB_OFFLINE), and its two hosts are loopback addresses, where ssh is refused at
once; on hosts that answer it waits for them as well.
Wall time and CPU time are both told: on a busy machine the second is the steadier one.
Targets of issue 3: under 1 s with four hosts; at least five times faster.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from overspan.catalog import inventories
from overspan.schema.places import cache_dir

PEER = "sparkrun==0.4.2"
ROOT = str(Path(__file__).parents[1])
TARGET_S, TARGET_RATIO = 1.0, 5.0
RECIPE = """\
sparkrun_version: "2"
model: lukealonso/MiniMax-M2.5-NVFP4
runtime: vllm-ray
container: avarok/dgx-vllm-nvfp4-kernel:v22
min_nodes: 2
max_nodes: 2
defaults: {port: 8888, host: 0.0.0.0, tensor_parallel: 2, gpu_memory_utilization: 0.85, max_model_len: 4096}
command: |
  vllm serve {model} --host {host} --port {port} -tp {tensor_parallel} --max-model-len {max_model_len}
  --gpu-memory-utilization {gpu_memory_utilization} --enable-expert-parallel --trust-remote-code --enforce-eager
"""


def installed(python: str, name: str, *what: str) -> Path:
    """The folder of the commands of an environment that holds this."""
    folder = cache_dir() / "benchmarks" / name
    if not folder.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *what], check=True)
    return folder / "bin"


def four_sparks(folder: Path) -> Path:
    """An inventory of four Sparks, made of the pair that ships."""
    pair = inventories.find("two-sparks").model_dump(mode="json", exclude_defaults=True)
    hosts: list[dict[str, Any]] = []
    for number in range(1, 5):
        host = {**pair["hosts"][1], "name": f"spark{number}", "ssh": {"address": f"10.10.10.{number}"}}
        hosts.append(host | {"fabric": {**host["fabric"], "address": f"10.10.10.{number}"}})
    file = folder / "four.yaml"
    file.write_text(yaml.safe_dump({**pair, "hosts": hosts}))
    return file


def taken(argv: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{argv[:3]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", default="python3.12")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE)
        ours = installed(sys.executable, "overspan", "--force-reinstall", "--no-deps", ROOT)
        installed(sys.executable, "overspan", ROOT)  # what it depends on
        plan = [str(ours / "overspan"), "plan", "minimax-m2.5-nvfp4", "--show", "commands"]
        dry = ["run", str(folder / "recipe.yaml"), "--dry-run", "--no-auto-detect", "-H", "127.0.0.1,127.0.0.2"]
        commands = {
            "overspan plan, 2 hosts": [*plan, "--set", "engine=vllm-ray", "--on", "two-sparks"],
            "overspan plan, 4 hosts": [*plan, "--set", "layout=tep4", "--on", str(four_sparks(folder))],
            f"{PEER} dry run, 2 hosts": [
                str(installed(given.python, PEER.replace("==", "-"), PEER) / "sparkrun"),
                *dry,
            ],
        }
        env = {"HOME": name, "HF_HUB_OFFLINE": "1", "OVERSPAN_STATE": name}
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
        for number in range(given.rounds + 1):
            for label, argv in commands.items():  # taking turns, so that a busy moment hits all of them
                seen = taken(argv, env)
                if number:  # the first of each warms the page cache
                    times[label].append(seen)
    tell(times)


def tell(times: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, ratios and verdicts."""
    medians = {
        label: [statistics.median(column) for column in zip(*seen, strict=True)] for label, seen in times.items()
    }
    for label, (wall, cpu) in medians.items():
        print(f"{label:32} {wall:6.2f} s wall, {cpu:5.2f} s CPU")
    two, four, other = medians.values()
    for what, ours, theirs in (("wall", two[0], other[0]), ("CPU", two[1], other[1])):
        ratio = theirs / ours
        print(f"{what}: {ratio:.1f}x faster (target {TARGET_RATIO:g}x: {'met' if ratio >= TARGET_RATIO else 'MISSED'})")
    print(f"4 hosts in {four[0]:.2f} s (target {TARGET_S:g} s: {'met' if four[0] < TARGET_S else 'MISSED'})")


if __name__ == "__main__":
    main()
