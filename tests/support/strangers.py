"""Reports and listings of strangers, judged from their threads before any rule was asked, and how an answer is marked.

`tests/doctor/strangers/` and `tests/inventory/strangers.jsonl`: each entry has its address, what the thread found to be
the cause, and words that a right answer holds. "a & b" wants both; one entry of the list is enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from overspan.inventory.captured import replayed
from overspan.schema.errors import OverspanError
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host

TESTS = Path(__file__).parent.parent
Mark = Literal["right", "partly", "wrong", "missed"]


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TESTS / name).read_text().splitlines()]


def holds(text: str, words: Iterable[str]) -> bool:
    return any(all(part.strip().lower() in text.lower() for part in word.split("&")) for word in words)


def mark(report: dict[str, Any], failed: Sequence[Finding]) -> Mark:
    """Right: the root says it. Partly: another finding does, or the root is near, so that its fix leads there."""
    if not failed:
        return "missed"
    root, *others = (" ".join(filter(None, (one.rule, one.title, one.cause, one.fix))) for one in failed)
    if holds(root, report["must"]):
        return "right"
    return "partly" if holds(" ".join(others), report["must"]) or holds(root, report["near"]) else "wrong"


def write_hosts(listing: dict[str, Any], folder: Path) -> None:
    """The listing's hosts as `overspan detect --save` writes them."""
    for host, facts in listing["hosts"].items():
        (folder / host).mkdir(parents=True)
        for fact, said in facts.items():
            meta = isinstance(said, dict)
            (folder / host / f"{fact}.{'json' if meta else 'txt'}").write_text(json.dumps(said) if meta else said)
    names = [{"name": host, "ssh": {"address": host}} for host in listing["hosts"]]
    (folder / "hosts.json").write_text(json.dumps({"hosts": names}))


def faults(listing: dict[str, Any], folder: Path) -> list[str]:
    """What detect says of these hosts that is not so; none when all of it is right."""
    write_hosts(listing, folder)
    try:
        found = replayed(folder)
    except OverspanError as error:
        return [f"refused: {error}"]
    wanted, text = listing["expect"], found.model_dump_json()
    hosts = {host.name: host for host in found.hosts}
    bad = [f"device {found.device}"] if found.device != wanted["device"] else []
    bad += [f"nothing says {words}" for words in wanted.get("must_warn", []) if not holds(text, words.split("|"))]
    bad += [f"says {words}" for words in wanted.get("must_not_say", []) if holds(text, [words])]
    for name, facts in wanted["hosts"].items():
        bad += [f"{name}: {each}" for each in _host_faults(facts, hosts.get(name))]
    return bad


def _host_faults(wanted: dict[str, Any], host: Host | None) -> list[str]:
    if host is None:
        return ["is not there"]
    kinds, fabric = sorted({gpu.kind for gpu in host.gpus}), host.fabric
    hcas = sorted(fabric.hcas) if fabric else []
    rdma = {nic.interface: nic.rdma_device for nic in host.nics}
    checks = {
        f"{len(host.gpus)} GPUs": wanted.get("count", len(host.gpus)) == len(host.gpus),
        f"kinds {kinds}": wanted.get("kinds", kinds) == kinds,
        "unified memory": all(gpu.unified_memory == wanted.get("unified", gpu.unified_memory) for gpu in host.gpus),
        f"interface {fabric and fabric.interface}": "interface" not in wanted
        or (fabric is not None and fabric.interface in wanted["interface"]),
        f"HCAs {hcas}": sorted(wanted.get("hcas", hcas)) == hcas and not set(wanted.get("hcas_not", [])) & set(hcas),
        f"RDMA {rdma}": all(rdma.get(nic) == device for nic, device in wanted.get("rdma", {}).items()),
    }
    return [what for what, right in checks.items() if not right]
