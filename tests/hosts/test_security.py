"""What a user, a recipe or an inventory says never runs and no secret is seen: asked of one launch over two real hosts.

Every text that may be free holds shell text that would leave a file; secrets are looked for wherever a launch leaves a
trace, and in the command lines of every process of the machine while it goes on (the hosts' processes are among them).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hosts.conftest import Cluster
from support.fake_env import make_model
from testbed.host import Host

pytestmark = pytest.mark.real

MARK = "overspan-ran-this"
HOSTILE = f"a'; touch /tmp/{MARK} #"
EXPANDED = f"$(touch /tmp/{MARK})`touch /srv/{MARK}`"
TOKEN, KEY = "hf_Bed'of\"mine", "bed-k3y'of\"-the-run"


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Every command line of this machine that is seen meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for process in psutil.process_iter():
                try:
                    seen.add("\0".join(process.cmdline()))
                except psutil.Error:
                    continue

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def holders(folder: Path, secret: str) -> list[str]:
    """Files below a folder that hold a secret, as it is or inside of JSON or a shell's quotes."""
    part = secret.split("'", maxsplit=1)[0].encode()
    return [path.name for path in folder.rglob("*") if path.is_file() and part in path.read_bytes()]


def nothing_ran(host: Host) -> None:
    for folder in ("/tmp", "/srv", "/root"):
        assert not host.outside(f"{folder}/{MARK}").exists()


def test_no_text_runs_and_no_secret_is_seen(cluster: Cluster) -> None:
    cluster.env = {"HF_TOKEN": TOKEN, "OVERSPAN_API_KEY": KEY}
    model = make_model(cluster.folder / f"a'; touch {MARK} #")
    cluster.change(env={"SITE": HOSTILE}, description=HOSTILE)
    cluster.change_host(1, env={"HOST": EXPANDED}, os=HOSTILE)
    settings = [f"model={model}", f"env.RECIPE={HOSTILE}", f"served_model_name={HOSTILE}", "api_key=true"]
    settings += [f"reasoning_parser_plugin={HOSTILE}"]
    with command_lines() as seen:
        done = cluster.up(*(word for setting in settings for word in ("--set", setting)), "--json")
        assert done.returncode == 0, done.stderr
        assert cluster.run("chat", "-p", EXPANDED, "--max-tokens", "2").stdout == "0 1 \n"
    now, run = json.loads(done.stdout), cluster.newest()
    assert now["model"] == HOSTILE, "it arrived as it was"
    inspected = [
        host.docker("inspect", f"overspan-{run.id}-{name}")
        for host, name in zip(cluster.bed.hosts, ("api", "worker1"), strict=True)
    ]
    assert HOSTILE in inspected[1] and EXPANDED in inspected[1]
    whole = "\n".join([*inspected, *seen, done.stdout, done.stderr])
    assert "hf_Bed" not in whole and "bed-k3y" not in whole
    assert any(f"overspan-{run.id}-worker1" in line for line in seen), "the launch itself was seen"
    assert holders(cluster.folder, TOKEN) == []
    assert holders(cluster.folder, KEY) == ["secrets.json"]
    assert (run.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    for host in cluster.bed.hosts:
        assert holders(host.folder / "docker" / "containers", KEY) == []
        assert host.run("ls", "/dev/shm") == ""
        nothing_ran(host)
    assert cluster.run("stop", "--grace", "0").returncode == 0
    assert holders(cluster.folder, KEY) == []
    for place in (Path.cwd(), Path("/tmp"), Path("/srv"), cluster.folder, run.path):
        assert not (place / MARK).exists()


def test_names_that_are_none_are_refused_before_anything_starts(cluster: Cluster) -> None:
    for words, said in (
        (("--set", f"image={HOSTILE}"), HOSTILE),
        (("--name", HOSTILE), "a run's name has letters"),
        (("--set", f"host={HOSTILE}"), "a host name or an IP address"),
    ):
        done = cluster.up(*words)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and "Traceback" not in done.stderr
    assert not cluster.containers()
    for host in cluster.bed.hosts:
        nothing_ran(host)
