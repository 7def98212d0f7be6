"""Time to render the Slurm job of every point of a GB200 sweep, a thousand points in all: submission, steps and folder.

Run: python benchmarks/slurm_render.py
The issue's limit is 5 s for 1,000 points. Prints one JSON document.
"""

import json
import time

from overspan.launchers import slurm_commands as commands
from overspan.schema.inventory import Slurm
from overspan.sweep.expand import matrix_of

POINTS = 1000
LIMIT_S = 5.0


def main() -> None:
    began = time.perf_counter()
    matrix = matrix_of("m3-gb200-1k1k", "gb200-nvl72", to_start=False)
    planned_s = time.perf_counter() - began
    site = matrix.inventory.slurm or Slurm()
    by_name = {host.name: host for host in matrix.inventory.hosts}
    began, size = time.perf_counter(), 0
    for number in range(POINTS):
        deployment = matrix.deployments[number % len(matrix.deployments)]
        hosts = [by_name[name] for name in deployment.placed.nodes]
        run = f"point-{number}"
        commands.sbatch(site, run, f"/shared/runs/{run}", hosts)
        size += len(commands.files(deployment.processes, run, hosts, secrets={}))
    seconds = time.perf_counter() - began
    found = {
        "points": POINTS,
        "seconds": round(seconds, 3),
        "limit_s": LIMIT_S,
        "within": seconds < LIMIT_S,
        "bytes": size,
        "plan_of_the_sweep_s": round(planned_s, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
