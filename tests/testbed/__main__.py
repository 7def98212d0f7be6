"""`python -m testbed up|down|list`: a bed that stays until it is taken down."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from testbed import claims
from testbed.bed import Bed


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="make a bed and print how to reach it")
    up.add_argument("--hosts", type=int, default=2)
    up.add_argument("--engine", type=Path, help="an engine's Python environment that containers get, read-only")
    up.add_argument("--share", action="append", default=[], help="a folder of this machine that the hosts see too")
    down = actions.add_parser("down", help="take a bed down, or every one that `up` made")
    down.add_argument("id", nargs="?")
    actions.add_parser("list", help="every bed of this machine")
    arguments = parser.parse_args()
    if arguments.action == "up":
        print(json.dumps(_up(arguments.hosts, arguments.engine, arguments.share), indent=2))
    for claim in claims.claims():
        if arguments.action == "list":
            print(claim.bed, *(claim.address(n) for n in range(1, len(claim.hosts) + 1)), claim.owner_pid or "kept")
        elif arguments.action == "down" and arguments.id in (claim.bed, None if claim.owner_pid is None else claim.bed):
            Bed.attach(claim).down()
            print(f"{claim.bed} is down")


def _up(count: int, engine: Path | None, share: list[str]) -> dict[str, object]:
    shared: list[str | Path] = [*share, *([engine] if engine else [])]
    bed = Bed([f"node{number}" for number in range(1, count + 1)], shared=shared, persistent=True).__enter__()
    return {
        "id": bed.id,
        "inventory": str(bed.write_inventory(engine=engine)),
        "hosts": {host.name: {"ssh": bed.ssh(host), "DOCKER_HOST": host.docker_host} for host in bed.hosts},
    }


main()
