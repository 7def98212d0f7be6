"""When arrivals are left to gather: only where no stamp and no user suffers."""

from array import array

from overspan.bench.gather import Gather

MS = 1_000_000


def gather(gap_ms: int, took_ms: int = 10_000, events: int = 1) -> Gather:
    made = Gather()
    made.gap(array("q", [0, gap_ms * MS, 2 * gap_ms * MS]))
    made.took(took_ms * MS)
    made.events = events
    return made


def test_many_slow_streams_gather_for_a_millisecond() -> None:
    assert gather(20).pause_s(1024, 0.05) == 0.001


def test_no_longer_than_an_eighth_of_a_gap_or_a_thousandth_of_a_request() -> None:
    assert gather(4).pause_s(1024, 0.05) == 0.0005
    assert gather(20, took_ms=300).pause_s(1024, 0.05) == 0.0003
    assert gather(20).pause_s(1024, 0.002) == 0.0005


def test_not_at_all_for_few_streams_short_requests_or_when_much_is_waiting() -> None:
    assert gather(20).pause_s(15, 0.05) == 0
    assert gather(20, took_ms=50).pause_s(1024, 0.05) == 0
    assert gather(20, events=32).pause_s(1024, 0.05) == 0
    assert Gather().pause_s(1024, 0.05) == 0, "nothing is known of the gaps yet"
