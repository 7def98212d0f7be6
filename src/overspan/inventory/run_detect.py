"""The three things that `overspan detect` does: ask, replay, print."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from overspan.inventory import captured
from overspan.inventory.detect import Answer, Target, ask_all, inventory_of, parse_hosts
from overspan.schema.inventory import Inventory, Ssh
from overspan.schema.units import gib
from overspan.transport.local import Local
from overspan.transport.ssh import Remote

_AMOUNT = re.compile(r"^( *(?:- )?\w+_(bytes|bits_per_s): )(\d+)$", re.MULTILINE)

HEADER = """\
# Written by `overspan detect`. Every value can be edited; `why` says what it was chosen for.
"""


def live(hosts: str | None, defaults: Ssh, save: Path | None) -> Inventory:
    """Ask this machine, or the hosts that are named.

    Raises:
        InputError: `hosts` does not parse, or `save` cannot be written.
        HostUnreachable: not one host answers.
    """
    targets = [Target("localhost")] if hosts is None else parse_hosts(hosts, defaults)
    asked = [(t, Local(t.name) if t.ssh is None else Remote(t.name, t.ssh)) for t in targets]
    answers = ask_all(asked)
    if save is not None:
        captured.save(save, answers)
    return inventory_of(answers, f"overspan detect{' --hosts ' + hosts if hosts else ''}")


def replayed(folder: Path) -> Inventory:
    """Detect on saved outputs; no machine is asked.

    Raises:
        InputError: there is no such folder, or nothing in it.
        HostUnreachable: not one host in it can be used.
    """
    known, gone, notes = captured.load(folder)
    answers = ask_all(known)
    answers += [Answer(Target(one.name), unreachable=one) for one in gone]
    return inventory_of(answers, f"overspan detect --replay {folder}", notes)


def as_yaml(inventory: Inventory) -> str:
    """The inventory for a person: what was left at its default is not written, but what was chosen always is."""
    data = inventory.model_dump(mode="json", exclude_defaults=True)
    first = inventory.model_dump(mode="json", include={"name", "source", "launcher", "device"})
    text = yaml.safe_dump(first | data, sort_keys=False, allow_unicode=True, width=110)
    return HEADER + _AMOUNT.sub(_with_unit, text)


def _with_unit(found: re.Match[str]) -> str:
    """A number of bytes or bits, with a comment that a person can read."""
    amount = int(found[3])
    told = gib(amount) if found[2] == "bytes" else f"{amount / 1e9:g} Gb/s"
    return f"{found[1]}{found[3]}  # {told}"
