"""Differences with intervals: noise is called noise about as often as promised, and a real change is seen."""

import random
from pathlib import Path

import pytest

from overspan.schema.workload import AnsweredRequest
from overspan.store.run_folder import RunFolder
from overspan.sweep.compare import MetricChange, compare, requests_of
from support.run_documents import bench, point, request_lines, streams


def answered(begin: float, first: float, each: float) -> AnsweredRequest:
    """A request of 16 tokens, milliseconds: when it was sent, its TTFT and its TPOT."""
    end = begin + first + 15 * each
    return AnsweredRequest(
        ttft_ms=first, tpot_ms=each, itl_ms=[each] * 15, e2e_ms=end - begin, output_tokens=16,
        first_token_at_ms=begin + first, last_token_at_ms=end, end_at_ms=end,
    )  # fmt: skip


def load(seed: int, ttft: float = 100.0, tpot: float = 20.0, count: int = 200, users: int = 4) -> list[AnsweredRequest]:
    """A closed loop of users whose server is slow for a while now and then: requests are not independent."""
    draw = random.Random(seed)
    now, slow = [0.0] * users, 0.0
    requests: list[AnsweredRequest] = []
    for number in range(count):
        slow = 0.9 * slow + draw.gauss(0, 0.05)
        first = 100 * (1 + slow + draw.gauss(0, 0.1))
        each = tpot * (1 + slow + draw.gauss(0, 0.02))
        begin, user = now[number % users], number % users
        requests.append(answered(begin, first, each))
        now[user] = requests[-1].end_at_ms
    return requests


def found(first: list[AnsweredRequest], second: list[AnsweredRequest]) -> dict[str, MetricChange]:
    return {each.metric: each for each in compare({"p": first}, {"p": second})}


def test_the_same_load_twice_is_noise_nineteen_times_of_twenty() -> None:
    called = [each.verdict for seed in range(100) for each in found(load(seed), load(1000 + seed)).values()]
    assert called.count("noise") / len(called) > 0.85  # batches of ten points still depend on each other a little


@pytest.mark.parametrize(("users", "waves"), [(16, 4), (64, 4), (16, 10)])
def test_what_slows_all_that_are_in_flight_is_noise(users: int, waves: int) -> None:
    def wavy(seed: int) -> list[AnsweredRequest]:
        """Waves of requests, each with its own slowness, which all of a wave share."""
        draw, begin, requests = random.Random(seed), 0.0, list[AnsweredRequest]()
        for _ in range(waves):
            slow = 1 + draw.gauss(0, 0.1)
            for _ in range(users):
                requests.append(answered(begin, 100 * slow * draw.gauss(1, 0.02), 20 * slow))
            begin = max(request.end_at_ms for request in requests)
        return requests

    called = [each.verdict for seed in range(100) for each in found(wavy(seed), wavy(1000 + seed)).values()]
    assert called.count("noise") + called.count("too few requests") > 0.9 * len(called)


def test_a_change_is_seen_with_its_sign_and_inside_its_interval() -> None:
    each = found(load(1), load(2, tpot=26.0))["tpot_ms"]
    assert each.verdict == "higher"
    assert each.low is not None
    assert each.high is not None
    assert each.low < 0.30 < each.high
    back = found(load(2, tpot=26.0), load(1))
    assert back["tpot_ms"].verdict == "lower"
    assert back["output_tokens_per_s"].verdict == "higher"


def test_few_requests_are_not_called_anything() -> None:
    assert {each.verdict for each in found(load(1, count=6), load(2, count=200)).values()} == {"too few requests"}


def test_points_of_one_alone_are_not_compared() -> None:
    assert {each.point for each in compare({"a": load(1), "b": load(2)}, {"b": load(3), "c": load(4)})} == {"b"}


def test_failed_requests_have_no_latency_and_are_counted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write("bench.json", bench([point(4)]))
    lines = request_lines(4, 8, failed=3)
    (tmp_path / "requests-4.jsonl").write_text("".join(lines[::-1]))
    found = requests_of(f"{tmp_path}/")
    ends = [(stream.end_ns - streams(4, 1)[0].send_ns) / 1e6 for stream in streams(4, 8)[:5]]
    assert [each.end_at_ms for each in found.points["4"]] == pytest.approx(sorted(ends), abs=1e-4)
    assert found.failed == {"4": 3}


def test_rates_agree_with_what_was_generated() -> None:
    requests = load(3, count=400)
    rate = found(requests, load(4, count=400))["output_tokens_per_s"].first
    whole = 400 * 16 / max(item.end_at_ms for item in requests) * 1e3
    # TTFT is idle time of a request that the windows know and the whole knows too.
    assert rate == pytest.approx(whole, rel=0.05)
