"""Two hosts, one command: started, asked, stopped; and what they did not share, brought from one to the other."""

import json

import pytest
import yaml

from hosts.conftest import Cluster
from testbed import image

pytestmark = pytest.mark.real

MODEL = "/srv/models/tiny"


def test_up_status_chat_logs_and_a_host_that_is_cut_off(cluster: Cluster) -> None:
    done = cluster.up("--json")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    assert [(each["process"], each["host"], each["health"]) for each in now["processes"]] == [
        ("api", "node1", "running"),
        ("worker1", "node2", "running"),
    ]
    # The endpoint listens on the head's loopback alone; a tunnel leads there.
    assert now["endpoint"].startswith("http://127.0.0.1:")
    assert cluster.run("chat", "-p", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    assert "headless" in cluster.run("logs", "-p", "worker1").stdout
    assert cluster.run("status").returncode == 0
    with cluster.bed.hosts[1].cut():
        cut_off = cluster.run("status", "--json")
        assert cut_off.returncode == 4, cut_off.stdout
        assert "node2" in json.loads(cut_off.stdout)["unreachable"]
        assert cluster.newest().state() == "verified", "a lost connection is no death"
        stopped = cluster.run("stop", "--grace", "0")
        assert stopped.returncode == 4, stopped.stderr
        assert "node2" in stopped.stderr
        assert [name for name in cluster.containers() if "worker1" in name], "what is gone cannot be ended"
    assert cluster.run("stop").returncode == 0, "twice is fine, and ends what was left"
    cluster.nothing_left()
    assert cluster.newest().state() == "stopped"


def test_image_and_weights_that_differ_are_findings_and_are_mended_once(cluster: Cluster) -> None:
    one, two = cluster.bed.hosts
    _put_model(cluster)
    other = two.outside(f"{MODEL}/model.safetensors")
    other.write_bytes(other.read_bytes()[:-1] + b"\1")
    two.docker("import", "-", image.NAME, stdin=image.empty_root("another"))
    done = cluster.up()
    assert done.returncode == 0, done.stderr
    found = cluster.findings()
    assert set(found) == {("preflight.image", "node2"), ("preflight.model", "node2")}
    differs = found["preflight.model", "node2"]
    assert "differ, compared with node1: model.safetensors" in str(differs.cause)
    assert differs.evidence and differs.evidence.text == "model.safetensors"
    assert "sha256:" in str(found["preflight.image", "node2"].evidence)
    assert f"image {image.NAME} was copied to node2" in done.stderr
    assert "copied 1 file of the model to node2" in done.stderr
    assert image.image_id(one) == image.image_id(two)
    assert other.read_bytes() == one.outside(f"{MODEL}/model.safetensors").read_bytes()
    cluster.run("stop", "--grace", "0")
    again = cluster.up()
    assert again.returncode == 0, again.stderr
    assert "cop" not in again.stderr
    assert cluster.findings() == {}


def _put_model(cluster: Cluster) -> None:
    """The model on both hosts, where the inventory says."""
    here = yaml.safe_load(cluster.recipe.read_text())["model"]
    for host in cluster.bed.hosts:
        folder = host.outside(MODEL)
        folder.mkdir(parents=True)
        for file in (cluster.folder / "model").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    cluster.change(models={here: MODEL})
