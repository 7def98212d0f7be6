"""`overspan up` on a Slurm to its first token beside the bare `srun` commands of the same processes, in one run.

    PYTHONPATH=src:tests python benchmarks/up_on_slurm.py [--rounds 2]

Needs root, Slurm's programs and the CPU engine: a real Slurm whose two nodes are hosts of the test bed, real vLLM,
SmolLM2 in a pipeline of two. By hand is the least that anybody could do: one `srun` a node, both at once, with the very
arguments that Overspan's job runs, and a request every 50 ms until a token comes. They take turns; one start of each is
thrown away. Target of issue 6: at most 1.15x. The load of the machine is told: on a busy one a ratio says little.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import yaml
from first_token import first_token, overspan, ready_at, tell

from overspan.launchers import slurm_commands
from overspan.provision import engines
from overspan.schema.places import cache_dir
from overspan.schema.process import ProcessSpec
from overspan.store.run_folder import RunFolder, open_run
from testbed.bed import Bed

NAME, PORT = "bench-slurm", 8032
NODES = ("node1", "node2")
LONGEST_S = 600.0


def by_overspan(inventory: Path) -> tuple[float, RunFolder, list[ProcessSpec]]:
    """Seconds from calling `overspan up` to the event of the first token; the run; its processes."""
    settings = [word for setting in (f"port={PORT}", "layout=pp2") for word in ("--set", setting)]
    started = time.time()
    overspan("up", "smollm2-135m", "--on", str(inventory), "--name", NAME, *settings)
    run = open_run(NAME)
    seconds, specs = ready_at(run) - started, run.processes()
    overspan("stop", NAME, "--grace", "0")
    return seconds, run, specs


def by_hand(bed: Bed, run: RunFolder, specs: list[ProcessSpec]) -> float:
    """Seconds from starting both commands at once to the first token."""
    assert bed.slurm is not None
    endpoint = run.plan().endpoint
    commands = [bare(spec, bed) for spec in specs]
    started = time.time()
    steps = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in commands]
    try:
        while not first_token(endpoint.base_url, endpoint.model):
            if time.time() - started > LONGEST_S or any(step.poll() is not None for step in steps):
                raise SystemExit("the bare commands ended, or gave no token")
            time.sleep(0.05)
        return time.time() - started
    finally:
        bed.slurm.clear()
        for step in steps:
            step.wait()


def bare(spec: ProcessSpec, bed: Bed) -> list[str]:
    """One process as a job of its own: the node is named, its address filled in."""
    program = slurm_commands.step(spec, "by-hand", None)
    words = program[program.index("--") :]
    for host in bed.hosts:
        words = [word.replace(f"{{address:{host.name}}}", host.address) for word in words]
    options = ["--nodes=1", "--ntasks=1", "--exclusive", "--mem=0", f"--nodelist={spec.host}", "--mpi=none"]
    return ["srun", *options, "--cpu-bind=none", *words]


def write_inventory(bed: Bed, engine: Path, folder: Path) -> Path:
    """Two named nodes, no container."""
    assert bed.slurm is not None
    data = {
        "name": "rack",
        "launcher": "slurm",
        "engine_environment": str(engine),
        "slurm": {"folder": str(bed.slurm.folder / "shared" / "overspan"), "partition": "batch", "nodes": "named"},
        "hosts": [{"name": name, "memory_bytes": 4 << 30, "cores": 4} for name in NODES],
    }
    file = folder / "rack.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    engine = engines.find("cpu")
    ours, bare_s, load = [], [], [os.getloadavg()[0]]
    with (
        tempfile.TemporaryDirectory() as name,
        Bed(NODES, shared=[cache_dir()], docker=False, with_slurm=True) as bed,
    ):
        assert bed.slurm is not None
        os.environ |= {"OVERSPAN_STATE": name, "SLURM_CONF": str(bed.slurm.conf)}
        inventory = write_inventory(bed, engine.path, Path(name))
        for number in range(rounds + 1):
            seconds, run, specs = by_overspan(inventory)
            bed.slurm.wait_for_nodes()
            hand = by_hand(bed, run, specs)
            bed.slurm.wait_for_nodes()
            load.append(os.getloadavg()[0])
            label = "thrown away" if number == 0 else f"round {number}"
            print(f"{label}: overspan up {seconds:.1f} s, bare srun {hand:.1f} s", flush=True)
            if number:
                ours.append(seconds)
                bare_s.append(hand)
    tell(ours, bare_s)
    print(f"load of the machine (1 min, {os.cpu_count()} cores): {' '.join(f'{each:.1f}' for each in load)}")


if __name__ == "__main__":
    main()
