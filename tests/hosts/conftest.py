"""`overspan up` over two real hosts: sshd, a Docker engine and a network of its own each; the engine in them is fake
where only the launch is the question, and real where the tokens are."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from overspan.runs.stop import stop
from overspan.schema.finding import Finding
from overspan.schema.places import cache_dir
from overspan.store.run_folder import RunFolder, all_runs
from support.fake_env import make_environment, make_model, make_recipe
from support.runs import free_port
from support.shell import Done, run_overspan, start_overspan
from support.waiting import until
from testbed import image
from testbed.bed import Bed


@dataclass
class Cluster:
    """A user's shell outside of two hosts."""

    bed: Bed
    folder: Path
    recipe: Path
    inventory: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    def change(self, **fields: Any) -> None:
        """Change the inventory's fields."""
        data = yaml.safe_load(self.inventory.read_text())
        self.inventory.write_text(yaml.safe_dump({**data, **fields}))

    def change_host(self, number: int, **fields: Any) -> None:
        data = yaml.safe_load(self.inventory.read_text())
        data["hosts"][number].update(fields)
        self.inventory.write_text(yaml.safe_dump(data))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return start_overspan(*arguments, env=self.env)

    def run(self, *arguments: str) -> Done:
        return run_overspan(*arguments, env=self.env)

    def up(self, *more: str, recipe: str | None = None) -> Done:
        return self.run("up", recipe or str(self.recipe), "--on", str(self.inventory), *more)

    def newest(self) -> RunFolder:
        return all_runs()[0]

    def findings(self) -> dict[tuple[str, str], Finding]:
        """What preflight found wrong before the newest run, by rule and host."""
        found = TypeAdapter(list[Finding]).validate_json((self.newest().path / "preflight.json").read_bytes())
        return {(one.rule, str(one.evidence and one.evidence.host)): one for one in found if one.status == "failed"}

    def containers(self) -> list[str]:
        """Every container of every run, on both hosts, ended ones too."""
        return [
            name for host in self.bed.hosts for name in host.docker("ps", "--all", "--format", "{{.Names}}").split()
        ]

    def nothing_left(self) -> None:
        until(lambda: not self.containers(), "the end of every container")


@pytest.fixture
def cluster(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    # The hosts see this machine's cache, and their containers what the inventory mounts.
    cache_dir().mkdir(parents=True, exist_ok=True)
    engine = Path(mkdtemp(prefix=".test-engine-", dir=cache_dir()))
    make_environment(engine / "env", str(Path(sys.base_prefix) / "bin" / "python3"))
    port = free_port()  # of the head, and of this machine, from where a tunnel leads there
    recipe = make_recipe(tmp_path / "tiny.yaml", make_model(tmp_path / "model"), f"image: {image.NAME}\nlayout: pp2\n")
    recipe.write_text(recipe.read_text().replace("port: 0", f"port: {port}"))
    inventory = tmp_path / "hosts.yaml"
    data = bed.inventory(engine=engine / "env").model_dump(mode="json")
    inventory.write_text(yaml.safe_dump({**data, "engine_environment": str(engine / "env")}))
    yield Cluster(bed, tmp_path, recipe, inventory, port)
    for run in all_runs():
        stop(run, grace_s=0)
    shutil.rmtree(engine)
