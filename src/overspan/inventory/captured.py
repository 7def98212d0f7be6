"""What `overspan detect` does: ask hosts, or replay a folder of captured outputs, and print.

The folder: DIR/hosts.json, DIR/<host>/<fact>.txt and <fact>.json (argv, code, standard error).

A folder that is damaged or holds a part only can be read: what is not in it is not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from overspan.inventory.detect import AskedHost, HostAnswer, ask_all, inventory_of, parse_hosts
from overspan.inventory.fact import Capture
from overspan.inventory.host import FACTS
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory, Ssh, Unreachable
from overspan.schema.reading import json_of, read_bytes
from overspan.schema.units import gib
from overspan.transport.fake import Fake, Reply
from overspan.transport.local import Local
from overspan.transport.ssh import Remote

INDEX: Final = "hosts.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_AMOUNT = re.compile(r"^( *(?:- )?\w+_(bytes|bits_per_s): )(\d+)$", re.MULTILINE)

HEADER = """\
# Written by `overspan detect`. Every value can be edited; `why` says what it was chosen for.
"""


class SavedHost(Frozen):
    """A host that was asked, in the order in which they were named."""

    name: str
    ssh: Ssh | None = None
    unreachable: Unreachable | None = None


class Index(Frozen):
    """hosts.json."""

    hosts: list[SavedHost]


def save_answers(folder: Path, answers: Sequence[HostAnswer]) -> None:
    """Write what the hosts said.

    Raises:
        InputError: the folder cannot be written.
    """
    entries = [SavedHost(name=a.target.name, ssh=a.target.ssh, unreachable=a.unreachable) for a in answers]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / INDEX, Index(hosts=entries))
        for answer in answers:
            place = folder / answer.target.name
            place.mkdir(exist_ok=True)
            for name, capture in answer.captures.items():
                (place / f"{name}.txt").write_text(capture.stdout, encoding="utf-8")
                _write(place / f"{name}.json", capture, without={"fact", "stdout"})
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from None


def _write(path: Path, document: Frozen, without: set[str] | None = None) -> None:
    data = document.model_dump(mode="json", exclude_none=True, exclude=without)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[list[tuple[AskedHost, Fake]], list[Unreachable], list[str]]:
    """The hosts of a saved folder, each as a scripted one.

    Returns:
        Hosts that answered, hosts that did not, and what is damaged.

    Raises:
        InputError: there is no such folder, or no host in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", next="make one with: overspan detect --save DIR")
    entries, notes = _entries(folder)
    if not entries:
        raise InputError(f"{folder} holds no captured host", next="it needs a folder for each host, as --save makes")
    known = [
        (AskedHost(entry.name, entry.ssh), Fake(entry.name, _script(folder / entry.name)))
        for entry in entries
        if entry.unreachable is None
    ]
    return known, [entry.unreachable for entry in entries if entry.unreachable is not None], notes


def _entries(folder: Path) -> tuple[list[SavedHost], list[str]]:
    notes: list[str] = []
    entries: list[SavedHost] = []
    index = folder / INDEX
    if index.exists():
        try:
            entries = Index.model_validate_json(read_bytes(index)).hosts
        except (ValidationError, OSError, InputError):
            notes.append(f"{index} is damaged: hosts are taken in the order of their folders' names")
    listed = {entry.name for entry in entries}
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
    alone = len(found) == 1
    entries += [SavedHost(name=name, ssh=None if alone else Ssh(address=name)) for name in found if name not in listed]
    usable = [entry for entry in entries if _NAME.fullmatch(entry.name)]
    if len(usable) < len(entries):
        notes.append(f"{index} names hosts that cannot be names of folders; they are left out")
    return usable, notes


def _script(folder: Path) -> list[Reply]:
    captures = [(fact.argv, _capture(folder, fact.name)) for fact in FACTS]
    return [
        Reply(
            argv=capture.argv or argv,
            stdout=capture.stdout,
            stderr=capture.stderr,
            code=capture.code or 0,
            missing=capture.missing,
        )
        for argv, capture in captures
        if capture is not None
    ]


def _capture(folder: Path, name: str) -> Capture | None:
    """One saved fact; none when it is not there or its meta file is damaged. An output alone counts as a success."""
    text, meta = folder / f"{name}.txt", folder / f"{name}.json"
    try:
        stdout = read_bytes(text).decode(errors="replace") if text.exists() else ""
        if not meta.exists():
            return Capture(fact=name, argv=[], code=0, stdout=stdout) if text.exists() else None
        return Capture.model_validate({**json_of(read_bytes(meta)), "fact": name, "stdout": stdout})
    except (ValueError, TypeError, OSError, InputError):  # pydantic's and json's are a ValueError
        return None


def live(hosts: str | None, defaults: Ssh, save: Path | None) -> Inventory:
    """Ask this machine, or the hosts that are named.

    Raises:
        InputError: `hosts` does not parse, or `save` cannot be written.
        HostUnreachable: not one host answers.
    """
    targets = [AskedHost("localhost")] if hosts is None else parse_hosts(hosts, defaults)
    asked = [(t, Local(t.name) if t.ssh is None else Remote(t.name, t.ssh)) for t in targets]
    answers = ask_all(asked)
    if save is not None:
        save_answers(save, answers)
    return inventory_of(answers, f"overspan detect{' --hosts ' + hosts if hosts else ''}")


def replayed(folder: Path) -> Inventory:
    """Detect on saved outputs; no machine is asked.

    Raises:
        InputError: there is no such folder, or nothing in it.
        HostUnreachable: not one host in it can be used.
    """
    known, gone, notes = load(folder)
    answers = ask_all(known)
    answers += [HostAnswer(AskedHost(one.name), unreachable=one) for one in gone]
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
