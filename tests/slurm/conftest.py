"""`overspan up` on a real Slurm of four nodes, each a namespace with an address of its own and stand-in GPUs."""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from overspan.launchers import proc
from overspan.runs.stop import stop
from overspan.schema.event import Event
from overspan.schema.places import cache_dir
from overspan.store.run_folder import RunFolder, all_runs
from support.fake_env import make_environment, make_model, make_recipe
from support.shell import Done, run_overspan, start_overspan
from support.waiting import until
from testbed.bed import Bed, missing
from testbed.slurm import Slurm

NODES = ("node1", "node2", "node3", "node4")


@pytest.fixture(scope="session")
def slurm_bed() -> Iterator[Bed]:
    reason = missing(with_slurm=True)
    if reason is not None:
        pytest.skip(reason)
    shared = [cache_dir()] if cache_dir().is_dir() else []
    with Bed(NODES, shared=shared, docker=False, with_slurm=True) as bed:
        yield bed


@dataclass
class Rack:
    """A user's shell on the login node."""

    bed: Bed
    slurm: Slurm
    folder: Path
    recipe: Path
    inventory: Path

    @property
    def shared(self) -> Path:
        """Storage that all see."""
        return self.slurm.folder / "shared"

    def change(self, **fields: Any) -> None:
        """Change the inventory's site settings."""
        data = yaml.safe_load(self.inventory.read_text())
        data["slurm"].update(fields)
        self.inventory.write_text(yaml.safe_dump(data))

    def change_top(self, **fields: Any) -> None:
        """Change the inventory's own fields."""
        data = yaml.safe_load(self.inventory.read_text())
        self.inventory.write_text(yaml.safe_dump({**data, **fields}))

    def use_names(self, *names: str) -> None:
        """Ask for nodes by their names."""
        data = yaml.safe_load(self.inventory.read_text())
        for host, name in zip(data["hosts"], names, strict=True):
            host["name"] = name
        data["slurm"]["nodes"] = "named"
        self.inventory.write_text(yaml.safe_dump(data))

    def of_host(self, number: int) -> list[psutil.Process]:
        """The engine's processes on one node."""
        found = []
        for each in self.bed.hosts[number].processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                # The shell of a step has the same words, and its srun on the node where the batch script runs.
                if each.name() not in ("sh", "srun") and "serve" in each.cmdline():
                    found.append(each)
        return found

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return start_overspan(*arguments)

    def run(self, *arguments: str) -> Done:
        return run_overspan(*arguments)

    def up(self, *more: str) -> Done:
        return self.run("up", str(self.recipe), "--on", str(self.inventory), *more)

    def submit(self, *more: str) -> RunFolder:
        """Start a run from a shell that is gone at once, and wait for its job."""
        with self.start("up", str(self.recipe), "--on", str(self.inventory), *more) as up:
            until(lambda: self.of_run() or up.poll() is not None, "a job")
            assert up.poll() is None, up.communicate()
            up.send_signal(signal.SIGKILL)
        return all_runs()[0]

    def of_run(self) -> list[str]:
        return [line for line in self.slurm.jobs() if " overspan-" in line]

    def jobs_that_were(self) -> list[str]:
        """The ids of the jobs of this test's runs, ended ones too."""
        rows = self.slurm.run("squeue", "--noheader", "--states=all", "--format=%i %j").splitlines()
        names = {f"overspan-{run.id}" for run in all_runs()}
        return [row.split()[0] for row in rows if row.split()[1] in names]

    def occupy(self, nodes: int, *more: str) -> str:
        """Somebody else's job, which holds nodes; its id."""
        out = self.slurm.run(
            "sbatch", "--parsable", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", *more, "--wrap=sleep 900"
        )
        job = out.strip()
        until(lambda: f"{job} RUNNING" in "\n".join(self.slurm.jobs()), "the other job")
        return job

    def nothing_left(self) -> None:
        """No job, step or process of a run, and no file of it on the shared storage."""
        until(lambda: not self.of_run(), "the end of the job")
        left: list[str] = []

        def none_left() -> bool:
            left[:] = self.bed.orphans()
            return not left

        try:
            until(none_left, "the end of every step")
        except AssertionError:
            raise AssertionError(f"steps left these behind: {left}") from None
        until(lambda: not list((self.shared / "overspan" / "runs").glob("*")), "the run's folder to go")

    def kill_ours(self, run: RunFolder) -> None:
        """The machine that watched is gone: supervisor and guardian at once."""
        session = run.note("supervisor.json")["session"]
        ours = proc.in_session(session)
        for process in ours:  # each ends the run when the other dies, if it has the time
            process.suspend()
        for process in ours:
            process.kill()
        psutil.wait_procs(proc.in_session(session), timeout=30)


def failed(run: RunFolder) -> Event:
    """The event of a run that failed."""
    until(lambda: run.state() == "failed", "the state failed")
    return run.last_state()


@pytest.fixture
def rack(slurm_bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rack]:
    assert slurm_bed.slurm is not None
    slurm = slurm_bed.slurm
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    shared = slurm.folder / "shared"
    make_environment(shared / "engine", str(Path(sys.base_prefix) / "bin" / "python3"))
    recipe = make_recipe(tmp_path / "tiny.yaml", make_model(shared / "model"), "layout: pp2\n")
    recipe.write_text(recipe.read_text().replace("port: 0", "port: 8020"))
    inventory = tmp_path / "rack.yaml"
    data = {
        "name": "rack",
        "launcher": "slurm",
        "device": "cpu",
        "engine_environment": str(shared / "engine"),
        "models": {str(shared / "model"): str(shared / "model")},
        "slurm": {"folder": str(shared / "overspan"), "partition": "batch"},
        "hosts": [{"name": name, "memory_bytes": 4 << 30, "cores": 4} for name in ("a", "b")],
    }
    inventory.write_text(yaml.safe_dump(data))
    try:
        yield Rack(slurm_bed, slurm, tmp_path, recipe, inventory)
    finally:
        slurm.ensure_controller()
        for host in slurm_bed.hosts:
            if host.init is None:
                host.power_on()
        for run in all_runs():
            stop(run, grace_s=0)
        for path in shared.iterdir():
            shutil.rmtree(path)
        slurm_bed.reset()
