"""Units, limits and statistics: one home each."""

import random

import pytest

from overspan.schema import statistics, units
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.slo import Slo, keeps, parse_limits, parse_slo


def test_units_for_a_person() -> None:
    measured = [units.duration(seconds, fractions=True) for seconds in (0.304, 12.31, 250, 3840)]
    assert measured == ["0.30 s", "12.3 s", "4 min 10 s", "1 h 04 min"]
    assert [units.duration(seconds) for seconds in (None, 7.4, 59.6, 3599)] == ["-", "7 s", "1 min 00 s", "59 min 59 s"]
    assert (units.size(273 * 2**20), units.size(3 * 2**29), units.gib(3 * 2**29)) == ("273 MiB", "1.5 GiB", "1.5 GiB")
    assert (units.link_rate(200_000_000_000), units.link_rate(None)) == ("200 Gbit/s", "-")
    assert (units.count(1, "user"), units.count(1024, "user")) == ("1 user", "1,024 users")
    assert (units.count(1, "process"), units.count(2, "process")) == ("1 process", "2 processes")


def test_an_unknown_name_where_none_is_known() -> None:
    assert UnknownName("sweep", "ladder", []).next == "known: none yet"
    assert UnknownName("engine", "cup", ["cpu", "router"]).next == "known: cpu, router"


@pytest.mark.parametrize(
    ("ttft", "tpot", "kept"),
    [(100.0, 10.0, True), (100.1, 10.0, False), (100.0, 10.1, False), (1.0, 11.0, False), (101.0, 1.0, False)],
)
def test_each_limit_decides_by_itself(ttft: float, tpot: float, kept: bool) -> None:
    assert Slo(ttft_ms=100, tpot_ms=10).met_by(ttft_ms=ttft, tpot_ms=tpot) is kept
    assert keeps({"ttft": 100, "tpot": 10}, {"ttft": ttft, "tpot": tpot, "itl": None}) is kept
    assert Slo(ttft_ms=100).met_by(ttft_ms=ttft, tpot_ms=1e9) is (ttft <= 100)
    assert Slo(tpot_ms=10).met_by(ttft_ms=1e9, tpot_ms=tpot) is (tpot <= 10)


def test_limits_are_read_from_text() -> None:
    assert parse_slo(" ttft=2000, tpot=30 ") == Slo(ttft_ms=2000, tpot_ms=30)
    assert str(parse_slo("ttft=2000,tpot=30")) == "TTFT 2000 ms and TPOT 30 ms"
    assert (parse_limits(None), parse_limits("e2e=5.5")) == ({}, {"e2e": 5.5})
    for text in ("ttft", "ttft=", "ttft=nan", "ttft=inf", "ttft=-1", "tokens=3", "ttft=1,,tpot=1"):
        with pytest.raises(InputError, match="is not a limit"):
            parse_limits(text)
    with pytest.raises(InputError, match="'itl=3' is not a limit"):
        parse_slo("itl=3")
    with pytest.raises(InputError, match="given twice"):
        parse_limits("itl=3,itl=4")


def test_percentiles_are_linear_between_neighbours() -> None:
    assert [statistics.percentile([1.0, 2.0, 4.0], share) for share in (0, 0.25, 0.5, 0.75, 1)] == [1, 1.5, 2, 3, 4]
    assert statistics.percentile([7.0], 0.99) == 7


def test_the_front_holds_each_point_that_none_beats_and_no_other() -> None:
    draw = random.Random(3)
    points = [(draw.randint(0, 12), draw.randint(0, 12)) for _ in range(60)]
    unbeaten = {(x, y) for x, y in points if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)}
    front = statistics.pareto_front([(float(x), float(y)) for x, y in points])
    assert set(front) == unbeaten
    assert front == sorted(front)
    assert len(front) >= 3
