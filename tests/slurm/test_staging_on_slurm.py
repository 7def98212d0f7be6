"""What a job's nodes are given first: an image that two sweeps want at once, and weights on the nodes' own disks."""

import pytest

from overspan.store.run_folder import all_runs
from slurm.conftest import Rack
from support.fake_enroot import add_enroot, asked

pytestmark = pytest.mark.real


def test_two_sweeps_import_one_image_once(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    """This Slurm has no pyxis, so that no container can start: each sweep ends with srun's own words."""
    add_enroot(rack.folder, monkeypatch)
    monkeypatch.setenv("IMPORT_S", "3")
    hosts = [
        {"name": each, "memory_bytes": 4 << 30, "cores": 4, "container": {"kind": "enroot"}} for each in ("a", "b")
    ]
    rack.change_top(hosts=hosts)
    text = rack.recipe.read_text() + "image: nvcr.io/x/y:1\n"
    sweeps = []
    for number in (1, 2):
        recipe = rack.folder / f"recipe{number}.yaml"
        recipe.write_text(text.replace("port: 8020", f"port: 802{number}"))
        file = rack.folder / f"sweep{number}.yaml"
        points = "points: [{topology: PP2, concurrency: [1]}]"
        file.write_text(f"name: s{number}\nbase: {recipe}\nscenarios: {{s: {{isl: 8, osl: 4}}}}\n{points}\n")
        sweeps.append(rack.start("sweep", str(file), "--on", str(rack.inventory)))
    ends = [sweep.communicate(timeout=300) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [1, 1], ends
    assert asked(rack.folder) == ["docker://nvcr.io#x/y:1"], ends
    folder = rack.shared / "overspan" / "images"
    assert sorted(path.suffix for path in folder.iterdir()) == [".lock", ".sqsh"]
    assert len(all_runs()) == 2
    for run in all_runs():
        assert run.state() == "failed"
        assert "--container-image" in str([event.data for event in run.events()])
    rack.nothing_left()


def test_weights_go_to_the_nodes_own_disks_and_what_is_missing_is_told_before_the_queue(rack: Rack) -> None:
    rack.change(local_models="/srv/models")
    done = rack.up()
    assert done.returncode == 0, done.stderr
    (run,) = all_runs()
    path = run.plan().model_path
    assert path is not None
    assert path.startswith("/srv/models/")  # a folder of each node's own
    assert all(path in spec.argv for spec in run.processes())
    assert rack.run("stop").returncode == 0
    rack.nothing_left()
    rack.change_top(models={str(rack.shared / "model"): "/nowhere/model"})
    done = rack.up()
    assert done.returncode == 2, done.stderr
    assert "/nowhere/model is not on the login node" in done.stderr
    assert len(all_runs()) == 1
