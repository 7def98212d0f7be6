"""Ask each host, side by side, and make an inventory of the answers; or of answers that were saved."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from overspan.inventory.choices import choose
from overspan.inventory.fact import Capture, ask, read
from overspan.inventory.host import FACTS, Unseen, build_host
from overspan.inventory.software import SINFO
from overspan.schema.errors import HostUnreachable, InputError
from overspan.schema.inventory import Host, Inventory, Slurm, Ssh, Unreachable
from overspan.transport.base import Transport

SIDE_BY_SIDE: Final = 4
"""Facts asked at once of one host: sshd serves ten sessions of a connection (MaxSessions in sshd_config(5))."""

HOSTS_AT_ONCE: Final = 32

_ADDRESS: Final = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)|\[(?P<v6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True)
class AskedHost:
    """A host to ask: over ssh, or this machine."""

    name: str
    ssh: Ssh | None = None


@dataclass(frozen=True)
class HostAnswer:
    """What one host said, or why it said nothing."""

    target: AskedHost
    captures: dict[str, Capture] = field(default_factory=dict)
    unreachable: Unreachable | None = None


def parse_hosts(text: str, defaults: Ssh | None = None) -> list[AskedHost]:
    """`spark1,ann@spark2:2222,[fe80::1]`. `localhost`, and this machine's own name, are asked without ssh.

    Raises:
        InputError: an entry is no host, or one stands twice.
    """
    targets = [_target(entry.strip(), defaults) for entry in text.split(",")]
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--hosts names {name} twice")
    return targets


def _target(entry: str, defaults: Ssh | None) -> AskedHost:
    found = _ADDRESS.fullmatch(entry)
    port = int(found["port"] or 22) if found else 0
    if found is None or not 0 < port < 65536:
        raise InputError(
            f"--hosts: {entry!r} is not a host", next="write it like spark1, ann@spark2:2222, 10.0.0.2 or [fd00::2]:22"
        )
    address = found["name"] or found["v6"]
    if entry in ("localhost", platform.node()):
        return AskedHost(entry)
    options = defaults.model_dump(exclude={"address", "user", "port"}) if defaults else {}
    user = found["user"] or (defaults.user if defaults else None)
    ssh = Ssh(address=address, user=user, port=port if found["port"] or not defaults else defaults.port, **options)
    return AskedHost(re.sub(r"[^A-Za-z0-9._-]", "-", address).strip("-"), ssh)


def ask_all(asked: Sequence[tuple[AskedHost, Transport]]) -> list[HostAnswer]:
    """Every fact of every host, hosts side by side. A host that does not answer is an answer too."""
    with ThreadPoolExecutor(max(1, min(len(asked), HOSTS_AT_ONCE))) as pool:
        return list(pool.map(lambda pair: _ask_one(*pair), asked))


def _ask_one(target: AskedHost, transport: Transport) -> HostAnswer:
    cwd = str(Path.home()) if target.ssh is None else None  # where ssh starts as well
    try:
        answers = [ask(transport, FACTS[0], cwd=cwd)]  # alone, so that a host that is gone is waited for once
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            answers += pool.map(lambda fact: ask(transport, fact, cwd=cwd), FACTS[1:])
    except HostUnreachable as error:
        gone = Unreachable(name=target.name, what=error.what, quote=error.quote, next=error.next)
        return HostAnswer(target, unreachable=gone)
    finally:
        transport.close()
    return HostAnswer(target, {capture.fact: capture for capture in answers})


def inventory_of(answers: Sequence[HostAnswer], source: str, notes: Sequence[str] = ()) -> Inventory:
    """Make an inventory of what the hosts said. Hosts that said nothing are listed apart.

    Raises:
        HostUnreachable: not one host can be used.
    """
    hosts: list[Host] = []
    left_out: list[Unreachable] = []
    for answer in answers:
        if answer.unreachable is not None:
            left_out.append(answer.unreachable)
            continue
        try:
            hosts.append(build_host(answer.target.name, answer.target.ssh, answer.captures))
        except Unseen as reason:
            left_out.append(Unreachable(name=answer.target.name, what=f"{answer.target.name} is left out: {reason}"))
    if not hosts:
        raise HostUnreachable(
            "; ".join(gone.what for gone in left_out) or "no host was asked",
            quote=next((gone.quote for gone in left_out if gone.quote), None),
            next=next((gone.next for gone in left_out if gone.next), None),
        )
    choices = choose(hosts)
    slurm, why_slurm = _slurm(answers)
    return Inventory(
        name="detected",
        source=source,
        launcher=choices.launcher,
        device=choices.device,
        hosts=choices.hosts,
        env=choices.env,
        slurm=slurm,
        links=choices.links,
        why=choices.why | why_slurm,
        warnings=[*notes, *choices.warnings],
        unreachable=left_out,
    )


def _slurm(answers: Sequence[HostAnswer]) -> tuple[Slurm | None, dict[str, str]]:
    """Slurm's default partition, where a host has Slurm. The launcher stays what it is: the user knows which to use."""
    for answer in answers:
        partitions = read(SINFO, answer.captures.get(SINFO.name)).value
        if partitions:
            chosen = next((partition for partition in partitions if partition.default), partitions[0])
            kind = "the default partition" if chosen.default else "the first partition"
            why = f"{kind} of the Slurm on {answer.target.name}; set `launcher: slurm` to submit jobs to it"
            return Slurm(partition=chosen.name), {"slurm": why}
    return None, {}
