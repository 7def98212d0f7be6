"""The benches of a run: each is kept under its number, and bench.json is the newest of those that measured something.

`bench-002.json` is the result of the second one, `bench-002/` holds its `requests-<level>.jsonl`. `bench.json` and the
`requests-<level>.jsonl` beside it are those of the bench that is taken.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from overspan.schema.errors import InputError
from overspan.schema.reading import read_bytes
from overspan.schema.workload import BenchResult
from overspan.store.files import write_whole
from overspan.store.run_folder import RunFolder

_NUMBERED: Final = re.compile(r"bench-(\d{3,})(\.json)?")


class KeptBench(NamedTuple):
    """One bench of a run. `result` is None where its file cannot be read."""

    number: int
    result: BenchResult | None

    def __str__(self) -> str:
        if self.result is None:
            return f"bench {self.number} (its file cannot be read)"
        return f"bench {self.number} ({told(self.result)})"


def told(result: BenchResult) -> str:
    """When, at which load, and how many requests ended well: `2026-11-30T20:59:21+00:00, 1, 8 users, 24 of 24 ok`."""
    ok, planned = answered(result), _planned(result)
    rates = [point.rate_per_s for point in result.points if point.rate_per_s is not None]
    loads = [f"{rate:g}" for rate in rates] or [str(point.concurrency) for point in result.points]
    unit = "requests/s" if rates else "in flight at most" if result.workload.arrival == "trace" else "users"
    return f"{result.started_at}, {', '.join(loads)} {unit}, {ok:,} of {planned:,} requests ok"


def answered(result: BenchResult) -> int:
    """How many requests ended well."""
    return sum(point.requests.ok for point in result.points)


def _planned(result: BenchResult) -> int:
    return sum(point.requests.planned for point in result.points)


def replaces(result: BenchResult, before: BenchResult | None) -> bool:
    """Whether it is read from now on: one of which most requests failed (the server died) never replaces one that is
    better, and one without a success replaces none."""
    if before is None:
        return True
    share, of_before = (answered(each) / max(_planned(each), 1) for each in (result, before))
    return share > 0.5 or share >= of_before > 0


class BenchChoice(NamedTuple):
    """Which bench of a run is read, and which are not."""

    taken: KeptBench | None
    left_out: Sequence[KeptBench]

    @property
    def note(self) -> str:
        """One sentence for a person; empty where there was one bench and it measured something."""
        if self.taken is None:
            return ""
        empty = self.taken.result is not None and not answered(self.taken.result)
        if not self.left_out and not empty:
            return ""
        without = ": no request of it ended well" if empty else ""
        left = f"; left out: {'; '.join(map(str, self.left_out))}" if self.left_out else ""
        return f"{self.taken} is taken{without}{left}"


def choice_of(run: RunFolder) -> BenchChoice:
    """Which bench is read as bench.json, and which are left out.

    Raises:
        RunDamaged: bench.json is damaged.
    """
    result = run.bench()
    kept = [KeptBench(number, _read(run.path / f"bench-{number:03}.json")) for number in _numbers(run, finished=True)]
    if result is None:
        return BenchChoice(None, kept)
    taken = next((bench for bench in reversed(kept) if bench.result == result), KeptBench(len(kept) + 1, result))
    return BenchChoice(taken, [bench for bench in kept if bench.number != taken.number])


class NewBench:
    """A bench that begins: it has a number and a folder for its requests. Two at once get two numbers."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        if not _numbers(run, finished=True) and (run.path / "bench.json").exists():
            self._adopt()
        self.number = self._claim()
        self.folder = _folder(run, self.number)

    def keep(self, result: BenchResult, *, taken: bool) -> None:
        """Write the result down; `taken`: it is the one that is read from now on (see `replaces`).

        Raises:
            OSError: it cannot be written.
        """
        file = self._run.path / f"bench-{self.number:03}.json"
        write_whole(file, result.model_dump_json(indent=2) + "\n")
        if not taken:
            return
        for requests in self.folder.glob("requests-*.jsonl"):
            _link(requests, self._run.path / requests.name)
        self._run.write("bench.json", result)

    def drop_if_empty(self) -> None:
        """Leave no trace of a bench that sent nothing."""
        if not any(self.folder.iterdir()) and not self.folder.with_suffix(".json").exists():
            self.folder.rmdir()

    def _adopt(self) -> None:
        """Number the bench that a version of before left."""
        folder = _folder(self._run, self._claim())
        for requests in self._run.path.glob("requests-*.jsonl"):
            _link(requests, folder / requests.name)
        shutil.copyfile(self._run.path / "bench.json", folder.with_suffix(".json"))

    def _claim(self) -> int:
        number = max(_numbers(self._run), default=0)
        while True:
            number += 1
            try:
                _folder(self._run, number).mkdir()
            except FileExistsError:
                continue
            return number


def _folder(run: RunFolder, number: int) -> Path:
    return run.path / f"bench-{number:03}"


def _numbers(run: RunFolder, *, finished: bool = False) -> list[int]:
    found = [match for path in run.path.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    return sorted({int(match[1]) for match in found if match[2] or not finished})


def _read(path: Path) -> BenchResult | None:
    try:
        return BenchResult.model_validate_json(read_bytes(path))
    except (OSError, InputError, ValidationError):
        return None


def _link(source: Path, target: Path) -> None:
    """Put a file at a second place whole, without its bytes a second time where the disk can."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
