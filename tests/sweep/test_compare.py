"""Differences with intervals: noise is called noise about as often as promised, and a real change is seen."""

import json
import random
from typing import Any

import pytest

from overspan.schema.errors import RunDamaged
from overspan.sweep.compare import Difference, compare, read_requests


def load(seed: int, ttft: float = 100.0, tpot: float = 20.0, count: int = 200, users: int = 4) -> list[dict[str, Any]]:
    """A closed loop of users whose server is slow for a while now and then: requests are not independent."""
    draw = random.Random(seed)
    now, slow = [0.0] * users, 0.0
    requests: list[dict[str, Any]] = []
    for number in range(count):
        slow = 0.9 * slow + draw.gauss(0, 0.05)
        first = 100 * (1 + slow + draw.gauss(0, 0.1))
        each = tpot * (1 + slow + draw.gauss(0, 0.02))
        begin, user = now[number % users], number % users
        now[user] = begin + first + 15 * each
        requests.append({
            "ok": True, "ttft_ms": first, "tpot_ms": each, "e2e_ms": first + 15 * each, "output_tokens": 16,
            "send_at_ms": begin, "first_token_at_ms": begin + first, "last_token_at_ms": now[user],
            "end_at_ms": now[user],
        })  # fmt: skip
    return requests


def found(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Difference]:
    return {each.metric: each for each in compare({"p": first}, {"p": second})}


def test_the_same_load_twice_is_noise_nineteen_times_of_twenty() -> None:
    called = [each.verdict for seed in range(100) for each in found(load(seed), load(1000 + seed)).values()]
    assert called.count("noise") / len(called) > 0.85  # batches of ten points still depend on each other a little


@pytest.mark.parametrize(("users", "waves"), [(16, 4), (64, 4), (16, 10)])
def test_what_slows_all_that_are_in_flight_is_noise(users: int, waves: int) -> None:
    def wavy(seed: int) -> list[dict[str, Any]]:
        """Waves of requests, each with its own slowness, which all of a wave share."""
        draw, begin, requests = random.Random(seed), 0.0, list[dict[str, Any]]()
        for _ in range(waves):
            slow = 1 + draw.gauss(0, 0.1)
            for _ in range(users):
                first, each = 100 * slow * draw.gauss(1, 0.02), 20 * slow
                end = begin + first + 15 * each
                requests.append({
                    "ok": True, "ttft_ms": first, "tpot_ms": each, "e2e_ms": end - begin, "output_tokens": 16,
                    "send_at_ms": begin, "first_token_at_ms": begin + first, "last_token_at_ms": end, "end_at_ms": end,
                })  # fmt: skip
            begin = max(request["end_at_ms"] for request in requests)
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


def test_failed_requests_have_no_latency_and_damage_is_told() -> None:
    lines = [json.dumps(each) for each in [*load(1, count=3), {"ok": False, "error": "timeout"}]]
    read, failed = read_requests(lines[::-1], "file")
    assert failed == 1
    assert [each["end_at_ms"] for each in read] == sorted(each["end_at_ms"] for each in load(1, count=3))
    with pytest.raises(RunDamaged, match="file, line 2"):
        read_requests([lines[0], "{"], "file")


def test_rates_agree_with_what_was_generated() -> None:
    requests = load(3, count=400)
    rate = found(requests, load(4, count=400))["output_tokens_per_s"].first
    whole = 400 * 16 / max(item["end_at_ms"] for item in requests) * 1e3
    # TTFT is idle time of a request that the windows know and the whole knows too.
    assert rate == pytest.approx(whole, rel=0.05)
