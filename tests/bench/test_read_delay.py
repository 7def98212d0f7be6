"""When arrivals are left to gather: only where no stamp and no user suffers."""

from array import array

import pytest

from overspan.bench.read_delay import ReadDelay
from overspan.bench.run import Bench
from overspan.schema.workload import Workload
from support.openai_server import serving, steady

MS = 1_000_000


def gather(gap_ms: int, took_ms: int = 10_000, events: int = 1) -> ReadDelay:
    made = ReadDelay()
    made.gap(array("q", [chunk * gap_ms * MS for chunk in range(16)]))
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
    assert ReadDelay().pause_s(1024, 0.05) == 0, "nothing is known of the gaps yet"


def test_a_role_and_a_first_token_that_leave_together_tell_no_gap() -> None:
    made = gather(20)
    made.gap(array("q", [0, 10_000]))
    assert made.pause_s(1024, 0.05) == 0.001


def test_streams_in_flight_are_gathered_from_their_first_chunks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []
    pause_s = ReadDelay.pause_s

    def noted(self: ReadDelay, in_flight: int, limit_s: float) -> float:
        pauses.append(pause_s(self, in_flight, limit_s))
        return pauses[-1]

    monkeypatch.setattr(ReadDelay, "pause_s", noted)
    asked = {"concurrency": [20], "requests": 20, "input_tokens": 24, "output_tokens": 60, "timeout_s": 60.0}
    with serving(steady(itl_s=0.03)) as server:
        result = Bench(server.base_url, None, Workload.model_validate(asked), calibrated=False).run()
    assert result.points[0].requests.ok == 20
    assert sum(pause > 0 for pause in pauses) > 20, "one wave of requests, of which none had ended before"
