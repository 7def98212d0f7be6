"""`overspan up` on two hosts to its first token beside the same containers started by hand in parallel, in one run.

    PYTHONPATH=src:tests python benchmarks/up_two_hosts.py [--rounds 2]

Needs root, Docker and the CPU engine: two hosts of the test bed (a network, an sshd and a Docker engine each), real
vLLM, SmolLM2 in a pipeline of two. By hand is the least that anybody could do: the very `docker run` that Overspan ran,
on both hosts at once over ssh, and a request every 50 ms until a token comes. They take turns; one start of each is
thrown away. Target of issue 3: at most 1.15x.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import yaml
from first_token import first_token, overspan, ready_at, tell

from overspan.launchers.docker_commands import docker_run
from overspan.provision import engines
from overspan.schema.places import cache_dir
from overspan.schema.process import ProcessSpec
from overspan.store.run_folder import RunFolder, open_run
from testbed import image
from testbed.bed import Bed

NAME, BY_HAND, PORT = "bench-two", "by-hand", 8031


def by_overspan(inventory: Path, address: str) -> tuple[float, RunFolder]:
    """Seconds from calling `overspan up` to the event of the first token, and the run, stopped again."""
    settings = [f"host={address}", f"port={PORT}", "layout=pp2", f"image={image.NAME}"]
    words = [word for setting in settings for word in ("--set", setting)]
    started = time.time()
    overspan("up", "smollm2-135m", "--on", str(inventory), "--name", NAME, *words)
    run = open_run(NAME)
    seconds = ready_at(run) - started
    overspan("stop", NAME, "--grace", "0")
    return seconds, run


def by_hand(bed: Bed, run: RunFolder, specs: list[ProcessSpec]) -> float:
    """Seconds from starting both containers at once to the first token."""
    hosts = {host.name: host for host in bed.hosts}
    endpoint = run.plan().endpoint
    started = time.time()
    starting = [
        subprocess.Popen(bed.ssh(hosts[spec.host], shlex.join(docker_run(spec, BY_HAND))), stdout=subprocess.DEVNULL)
        for spec in specs
    ]
    if any(process.wait() for process in starting):
        raise SystemExit("a container did not start")
    while not first_token(endpoint.base_url, endpoint.model):
        if time.time() - started > 600:
            raise SystemExit("no token within 600 s")
        time.sleep(0.05)
    taken = time.time() - started
    for host in bed.hosts:
        host.clear()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    engine = engines.find("cpu")
    with tempfile.TemporaryDirectory() as folder, Bed(shared=[cache_dir()]) as bed:
        os.environ["OVERSPAN_STATE"] = folder
        inventory = Path(folder) / "hosts.yaml"
        data = bed.inventory(engine=engine.path).model_dump(mode="json")
        inventory.write_text(yaml.safe_dump({**data, "engine_environment": str(engine.path)}))
        ours, bare = [], []
        for number in range(rounds + 1):
            seconds, run = by_overspan(inventory, bed.hosts[0].address)
            hand = by_hand(bed, run, run.processes())
            label = "thrown away" if number == 0 else f"round {number}"
            print(f"{label}: overspan up {seconds:.1f} s, by hand {hand:.1f} s", flush=True)
            if number:
                ours.append(seconds)
                bare.append(hand)
    tell(ours, bare)


if __name__ == "__main__":
    main()
