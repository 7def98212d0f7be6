"""The ledger's gate: history stays as it was, changes are named by an entry, results belong to recipes that exist."""

from __future__ import annotations

import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.point import Point, PointResult
from overspan.schema.yamlio import load
from overspan.sweep import read
from overspan.sweep.expand import matrix_of
from overspan.sweep.folder import read_results
from overspan.sweep.results import derive
from overspan.transport.base import Completed
from overspan.transport.local import Local

LEDGER = "ledger.yaml"
_IN_A_CLONE = "run it in a clone, or name a folder of one: --folder DIRECTORY"
RESULTS = "results"
SWEEPS = "sweeps"

_AS_COMMITTED = "* -export-ignore -export-subst -text -eol -filter -ident -working-tree-encoding\n"
"""Source: gitattributes(5)."""
_PLANNED = (
    *("scenario", "isl", "osl", "topology", "concurrency", "requests", "warmup", "model", "engine", "image"),
    *("nodes", "ranks", "gpus_used", "gpus_reserved"),
)
"""What a result says of its point that its numbers are read by."""


class LedgerEntry(Frozen):
    """One change. `adds_only` promises that no point or image that was there before is altered."""

    date: date
    what: str = Field(min_length=1)
    why: str = Field(min_length=1)
    points: list[str] = Field(min_length=1, description="patterns of point ids: SWEEP/SCENARIO/TOPOLOGY/cUSERS")
    link: str = Field(min_length=1)
    adds_only: bool = False


class Ledger(Frozen):
    """ledger.yaml."""

    entries: list[LedgerEntry] = Field(default_factory=list)


@dataclass(frozen=True)
class LedgerState:
    """A folder at one moment: its entries, every planned point by its name in the ledger, its results' texts.

    `twice` are the points that two sweeps of one name both plan.
    """

    entries: list[LedgerEntry]
    points: dict[str, Point]
    results: dict[str, bytes]
    twice: Sequence[str] = ()


def read_state(folder: Path, inventory: str | None) -> LedgerState:
    """A folder with ledger.yaml, sweeps/*.yaml and results/*.jsonl.

    Args:
        folder: where they are.
        inventory: the machines of sweeps that name none of their own.

    Raises:
        InputError: one of them is wrong; names file and line.
    """
    file = folder / LEDGER
    entries = load(Ledger, file).entries if file.exists() else []
    planned = [point for each in sorted((folder / SWEEPS).glob("*.yaml")) for point in _points_of(each, inventory)]
    names = Counter(point.full_id for point in planned)
    # Git may have been told to write other ends of lines here than it keeps.
    results = {
        each.name: each.read_bytes().replace(b"\r\n", b"\n") for each in sorted((folder / RESULTS).glob("*.jsonl"))
    }
    twice = [name for name, times in names.items() if times > 1]
    return LedgerState(entries, {point.full_id: point for point in planned}, results, twice)


def _points_of(file: Path, inventory: str | None) -> list[Point]:
    own = read.find(str(file)).inventory
    return matrix_of(str(file), own or inventory, to_start=False).points


def at_revision(folder: Path, revision: str, inventory: str | None) -> LedgerState:
    """The folder as it was at a git revision.

    Raises:
        InputError: no git repository, or no such revision.
    """
    with tempfile.TemporaryDirectory(prefix="overspan-ledger-") as scratch:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top.code:
            raise InputError(f"{folder} is not in a git repository", quote=top.stderr.strip(), next=_IN_A_CLONE)
        known = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if known.code:
            raise InputError(f"git does not know the revision '{revision}'", next="git log --oneline, or git fetch")
        repository, commit = Path(top.stdout.strip()), known.stdout.strip()
        below = str(folder.resolve().relative_to(repository.resolve()))
        listed = _git(repository, "ls-tree", "-r", "--name-only", commit, "--", below).check("git ls-tree")
        if not listed.stdout.strip():
            return LedgerState([], {}, {})
        _extract(repository, commit, below, Path(scratch))
        return read_state(Path(scratch) / below, inventory)


def _git(folder: Path, *words: str, **env: str) -> Completed:
    return Local().run(["git", *words], cwd=str(folder), env=env)


def _extract(repository: Path, commit: str, below: str, out: Path) -> None:
    """Write a commit's files as they were committed.

    Attributes that the repository sets can leave files out of an archive, or change them: so the archive is made from
    another repository, with the same objects and attributes of its own, which come first.
    """
    objects = _git(repository, "rev-parse", "--path-format=absolute", "--git-path", "objects").check("git rev-parse")
    form = _git(repository, "rev-parse", "--show-object-format").check("git rev-parse").stdout.strip()
    plain, archive = out / "plain.git", out / "then.tar"
    _git(repository, "init", "--quiet", "--bare", f"--object-format={form}", str(plain)).check("git init")
    (plain / "objects" / "info" / "alternates").write_text(objects.stdout, encoding="utf-8")
    (plain / "info").mkdir(exist_ok=True)
    (plain / "info" / "attributes").write_text(_AS_COMMITTED, encoding="utf-8")
    words = ("archive", "--format=tar", "-o", str(archive), commit, "--", below)
    _git(plain, *words, GIT_DIR=str(plain)).check("git archive")
    with tarfile.open(archive) as held:
        for member in held:  # by hand: Python before 3.11.4 (Debian 12's) has no filter="data"
            content = held.extractfile(member) if member.isfile() else None
            target = (out / member.name).resolve()
            if content is not None and target.is_relative_to(out.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def problems(then: LedgerState, now: LedgerState, folder: Path) -> list[str]:
    """Everything that the gate does not let pass; an empty list when it opens."""
    return [*_history(then, now), *_changes(then, now), *_results(then, now, folder)]


def added(then: LedgerState, now: LedgerState) -> list[LedgerEntry]:
    """The entries that came since."""
    return now.entries[len(then.entries) :]


def named(entries: list[LedgerEntry], now: LedgerState) -> list[str]:
    """The points that entries name: those that are to run."""
    return [name for name in now.points if any(_names(entry, name) for entry in entries)]


def _names(entry: LedgerEntry, point: str) -> bool:
    return any(fnmatchcase(point, pattern) for pattern in entry.points)


def _history(then: LedgerState, now: LedgerState) -> Iterator[str]:
    for number, entry in enumerate(then.entries, 1):
        if len(now.entries) < number:
            yield f"entry {number} ({entry.date}: {entry.what}) is gone: entries are only added"
        elif now.entries[number - 1] != entry:
            yield f"entry {number} ({entry.date}: {entry.what}) was changed: entries are only added"
    for entry in added(then, now):
        for pattern in entry.points:
            if not any(fnmatchcase(name, pattern) for name in {**then.points, **now.points}):
                yield f"the entry '{entry.what}' names '{pattern}', which is no point of any sweep here"


def _changes(then: LedgerState, now: LedgerState) -> Iterator[str]:
    """Points that are new or other than before, each against the entries that were added."""
    entries = added(then, now)
    for name in now.twice:
        yield f"{name} is planned by two files: a sweep's name stands once"
    for name, point in now.points.items():
        before = then.points.get(name)
        if before is None:
            how = "is new"
        elif before.image != point.image:
            how = f"has another image ({before.image} -> {point.image})"
        elif before.recipe_hash != point.recipe_hash:
            how = "has another recipe"
        else:
            continue
        mine = [entry for entry in entries if _names(entry, name)]
        promises = [entry for entry in mine if before is not None and entry.adds_only]
        if not mine:
            yield f"{name} {how}, and no entry that was added names it"
        for entry in promises[:1]:
            yield f"{name} {how}, and the entry '{entry.what}' says that it only adds points"
    for name in then.points.keys() - now.points.keys():
        if not any(_names(entry, name) and not entry.adds_only for entry in entries):
            yield f"{name} is gone, and no entry that was added says so"


def _results(then: LedgerState, now: LedgerState, folder: Path) -> Iterator[str]:
    """Results are only added, and each that was added belongs to a point as it is planned now."""
    for name, text in then.results.items():
        if not now.results.get(name, b"").startswith(text):
            yield f"{RESULTS}/{name}: results that were there are changed or gone: lines are only added"
    for name, text in now.results.items():
        if text and not text.endswith(b"\n"):
            yield f"{RESULTS}/{name}: its last line has no end: it was cut, or written by hand"
        old = then.results.get(name, b"").count(b"\n")
        try:
            results = read_results(folder / RESULTS / name)
        except OverspanError as error:
            yield error.what
            continue
        last = {result.point.full_id: index for index, result in enumerate(results)}
        for index, result in enumerate(results):
            # Of those that were there, only the last of a point must still be true.
            if index >= old or last[result.point.full_id] == index:
                planned = now.points.get(result.point.full_id)
                for wrong in _wrong(result, planned, is_new=index >= old):
                    yield f"{RESULTS}/{name}, line {index + 1}: {wrong}"


def _wrong(result: PointResult, planned: Point | None, *, is_new: bool) -> Iterator[str]:
    """What a result says of its point and of its numbers, and is otherwise."""
    if planned is None:
        if is_new:
            yield f"a result of {result.point.full_id}, which no sweep here plans"
        return
    if planned.recipe_hash != result.point.recipe_hash:
        made = result.point.recipe_hash
        yield f"the result of {planned.full_id} was made with recipe {made}; planned is {planned.recipe_hash}"
        return
    for field in _PLANNED:
        said, real = getattr(result.point, field), getattr(planned, field)
        if said != real:
            yield f"the result of {planned.id} says {field} {said}; planned is {real}"
    if result.measured is not None and result.derived is not None:
        said, real = result.derived.model_dump(), derive(result.point, result.measured).model_dump()
        wrong = next((name for name in said if said[name] != real[name]), None)
        if wrong:
            yield f"the result of {planned.id} says {wrong} {said[wrong]}; what was measured gives {real[wrong]}"
