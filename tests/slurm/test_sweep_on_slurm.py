"""A sweep on a real Slurm: one allocation a topology, every concurrency in it, and nothing left."""

import json

import pytest

from overspan.store.run_folder import all_runs
from overspan.sweep.folder import all_sweeps
from slurm.conftest import Rack

pytestmark = pytest.mark.real

SWEEP = """name: racked
base: {recipe}
scenarios: {{s: {{isl: 8, osl: 4}}}}
load: {{requests_per_user: 2, warmup_per_user: 0}}
points:
  - {{topology: PP2, concurrency: [1, 2]}}
  - {{topology: TP1, concurrency: [1]}}
"""


def test_one_allocation_a_topology(rack: Rack) -> None:
    file = rack.folder / "racked.yaml"
    file.write_text(SWEEP.format(recipe=rack.recipe))
    done = rack.run("sweep", str(file), "--on", str(rack.inventory), "--json")
    assert done.returncode == 0, done.stderr
    assert [point["state"] for point in json.loads(done.stdout)["points"]] == ["ok"] * 3
    (folder,) = all_sweeps()
    served = {result.run: result.point.topology for result in folder.results()}
    runs = {run.id: run for run in all_runs()}
    assert {run: topology for run, topology in served.items() if run} == {
        run.id: run.plan().layout.label.upper() for run in runs.values()
    }
    jobs = [rack.slurm.run("scontrol", "--oneliner", "show", "job", job) for job in rack.jobs_that_were()]
    assert sorted(line.split("NumNodes=")[1].split()[0] for line in jobs) == ["1", "2"]
    assert all(run.state() == "stopped" for run in runs.values())
    rack.nothing_left()
