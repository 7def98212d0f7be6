"""How many requests a level gets, and the word before a bench that takes long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from overspan.bench import expected
from overspan.bench.expected import slow_under_load
from overspan.bench.run import Bench
from overspan.cli.main import main
from overspan.schema.workload import Workload
from support.openai_server import Server, serving, steady


def test_each_number_of_users_has_requests_that_suit_it(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(steady(0.001, 0.0001)) as server, pytest.raises(SystemExit) as caught:
        short = ("--input-tokens", "20", "--output-tokens", "2", "--no-calibration")
        main(["bench", "--base-url", server.base_url, "-c", "1,8,32", *short])
    assert caught.value.code == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["1", "16"], ["8", "32"], ["32", "128"]]


def told_before(server: Server, **changes: Any) -> tuple[list[str], int]:
    """What a bench says before its load, which this ends; and what it had asked of the server by then."""
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        raise KeyboardInterrupt

    fields = {"concurrency": [1], "requests": 4, "input_tokens": 20, "output_tokens": 4, "timeout_s": 20.0}
    load = Workload.model_validate({**fields, **changes})
    try:
        Bench(server.base_url, None, load, calibrated=False, tell=tell).run()
    except KeyboardInterrupt:
        assert said
    return said, len(server.requests)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ({"requests": 64, "output_tokens": 2048}, "at 1 user;"),
        ({"concurrency": [1, 8], "requests": 32, "requests_a_user": 4, "output_tokens": 4096}, "at 1 user;"),
        ({"concurrency": [1, 2], "duration_s": 200.0}, "at least 7 minutes"),
        ({"concurrency": [], "arrival": "poisson", "rates": [0.1], "requests": 100}, "at 0.1 requests/s"),
    ],
)
def test_a_long_bench_says_so_before_it_starts(load: dict[str, Any], says: str) -> None:
    with serving(steady(0.01, 0.01)) as server:
        said, asked = told_before(server, **load)
    assert len(said) == 1 and says in said[0] and "--duration" in said[0]
    assert asked == 2, "no request of the load was sent"


def test_a_short_bench_says_nothing() -> None:
    with serving(steady(0.001, 0.0001)) as server:
        assert told_before(server) == ([], 5)


def test_a_cold_first_request_does_not_make_a_bench_long(tmp_path: Path) -> None:
    def cold(body: Any, send: Any, number: int) -> None:
        steady(2.0 if number == 0 else 0.001, 0.0001)(body, send, number)

    with serving(cold) as server:
        said, asked = told_before(server, requests=200)
    assert (said, asked) == ([], 202)


@pytest.mark.parametrize(
    ("ended", "elapsed_s", "says"),
    [
        (0, 90.0, None),  # four rounds of 90 s at least: 270 s more
        (0, 101.0, "32 users take at least 5 more minutes"),
        (64, 400.0, "32 users take at least 7 more minutes"),
        (120, 400.0, None),
    ],
)
def test_a_bench_that_slows_down_under_load_says_so(ended: int, elapsed_s: float, says: str | None) -> None:
    said = slow_under_load(32, 128, ended, elapsed_s)
    assert (said is None) == (says is None)
    assert (says or "") in (said or "")


def test_the_pace_under_load_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of a tenth of a second in place of five minutes: one request alone is quick, four together are not."""
    monkeypatch.setattr(expected, "LONG_S", 0.1)
    monkeypatch.setattr("overspan.bench.run.LONG_S", 60.0)
    said: list[str] = []
    load = Workload(concurrency=[4], requests=24, input_tokens=24, output_tokens=8, timeout_s=20.0)
    with serving(steady(0.2, 0.02)) as server:
        Bench(server.base_url, None, load, calibrated=False, tell=said.append).run()
    assert len(said) == 1 and said[0].startswith("under load this bench is slower: 4 users take at least ")
