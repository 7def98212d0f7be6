"""The earliest of several hosts is the root, whatever zone each writes in, over New Year and over midnight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from overspan.doctor.context import RunContext, context_of, events_source
from overspan.doctor.lines import parse
from overspan.doctor.times import Stamp
from overspan.schema.event import Event
from support.doctor import ask_all

FIRST = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
LATER = "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("2026-11-23T12:00:05+02:00", "2026-11-23T10:00:10Z"),
        ("2026-11-23T23:30:00-0800", "2026-11-24T07:30:01Z"),
        ("2026-11-24 00:10:00 UTC", "2026-11-23T17:00:00-08:00"),
        ("2026-12-31T23:59:58Z", "2027-01-01T00:00:03Z"),
        ("2026-12-31 23:59:58", "2027-01-01 00:00:03"),
        ("12-31 23:59:58", "01-01 00:00:03"),
        ("Dec 31 23:59:58", "Jan  1 00:00:03"),
        ("2026-12-31T23:59:58Z", "01-01 00:00:03"),
        ("12-31 23:59:58", "2027-01-01 00:00:03"),
        ("02-29 10:00:00", "03-01 09:00:00"),
        ("[23:59:58] ", "[00:00:03] "),
        ("2026-11-23 10:00:05", "10:00:10 "),
        ("Nov 23 12:00:20 2026-11-23T12:00:05+02:00", "2026-11-23T10:00:10Z"),
    ],
)
def test_the_earliest_is_the_root(first: str, later: str) -> None:
    for names in (("rank0", "rank1"), ("rank1", "rank0")):
        logs = {names[0]: f"{first} ERROR {FIRST}", names[1]: f"{later} ERROR {LATER}"}
        assert ask_all(dict(sorted(logs.items())))[0].rule == "cuda-oom-load", logs


def test_where_only_some_logs_tell_their_zone_the_deaths_that_overspan_saw_count_first() -> None:
    logs = {"rank0": f"2026-11-23T10:00:05Z ERROR {LATER}", "rank1": f"2026-11-23 12:00:00 ERROR {FIRST}"}
    assert ask_all(logs, RunContext(deaths={"rank1": 1.0, "rank0": 2.0}))[0].rule == "cuda-oom-load"
    assert ask_all(logs)[0].rule == "disk-full"


def test_deaths_over_hosts_are_ordered_by_when_they_were_in_any_zone_and_listed_in_any_order() -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    local = timezone(timedelta(hours=2))
    events = [
        Event(at=noon + timedelta(seconds=9), message="b", process="rank0", host="a", data={"code": 1}),
        Event(at=(noon + timedelta(seconds=5)).astimezone(local), message="a", process="rank1", host="b",
              data={"code": None}),
        Event(at=noon + timedelta(seconds=90), message="again", process="rank1", host="b", data={"code": 1}),
    ]  # fmt: skip
    deaths = context_of(None, events).deaths
    assert sorted(deaths, key=deaths.__getitem__) == ["rank1", "rank0"]
    assert ask_all({"rank0": LATER, "rank1": FIRST}, context_of(None, events))[0].rule == "cuda-oom-load"
    source = events_source(Path("events.jsonl"), events)
    assert source.data is not None and source.data.splitlines()[1] == b"2026-11-23T12:00:05.000000Z a"


def test_a_stamp_says_what_the_line_says_and_no_more() -> None:
    assert parse(b"2026-11-23T12:00:05.5+02:00 x").at == Stamp(43205.5, 23, 11, 2026, 7200)
    assert parse(b"INFO 11-23 12:00:05 [a.py:1] x").at == Stamp(43205.0, 23, 11)
    assert parse(b"[12:00:05] x").at == Stamp(43205.0)
    assert parse(b"2026-99-99 12:00:05 x").at == Stamp(43205.0)
    assert parse(b"x").at is None
