"""Two launches at once that need one image: it is imported once, and what a step cannot be given is told."""

import pytest

from overspan.runs.folder import all_runs
from slurm.conftest import Rack
from support.fake_enroot import add_enroot, asked

pytestmark = [pytest.mark.real, pytest.mark.slow]


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
