"""How a twin is asked, and what is taken from the engine's own counters."""

from urllib.parse import urlsplit

import pytest

from overspan.engines.vllm import VLLM_METRICS
from overspan.prove.cases import LayoutAnswers, ProofCase, ask
from overspan.prove.proving import _missed
from overspan.prove.scratch import PeakMemory
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Endpoint
from overspan.schema.recipe import Recipe
from support.endpoint import endpoint
from support.runs import fake_run

CASES = [
    ProofCase(manner="batch", prompt=[1, 2], tokens=2),
    ProofCase(manner="prefix", prompt=[1, 2, 3], tokens=1),
    ProofCase(manner="preempted", prompt=[1, 5], tokens=2),
    ProofCase(manner="preempted", prompt=[1, 6], tokens=2),
    ProofCase(manner="uncached", prompt=[1, 2, 3], tokens=1, salt="alone"),
    ProofCase(manner="long", prompt=[4], tokens=3),
]
RECIPE = Recipe(name="x", model="m")


def at(url: str) -> Endpoint:
    parts = urlsplit(url)
    return Endpoint(host=parts.hostname or "", port=parts.port or 0, model="stub")


def test_every_case_is_answered_in_its_order_and_the_counters_of_all_engines_are_summed() -> None:
    with endpoint() as url:
        answered = ask(at(url), CASES, VLLM_METRICS)
    assert answered.tokens == [[0, 1], [0], [0, 1], [1, 2], [0], [0, 1, 2]]
    assert (answered.preemptions, answered.cached_tokens) == (5, 128)


def test_a_request_that_fails_is_told_with_the_engines_words() -> None:
    with endpoint("dies-after-eight") as url, pytest.raises(OverspanError, match="request failed: ") as error:
        ask(at(url), CASES * 4, VLLM_METRICS)
    assert error.value.what.endswith("answered HTTP 500")
    assert "EngineDeadError" in (error.value.quote or "")


def test_a_case_that_did_not_come_about_proves_nothing() -> None:
    def answered(preemptions: int, cached: int) -> LayoutAnswers:
        return LayoutAnswers(tokens=[], preemptions=preemptions, cached_tokens=cached)

    assert _missed(RECIPE, answered(1, 1)) is None
    assert "no request was preempted" in str(_missed(RECIPE, answered(0, 1)))
    assert "prefix cache" in str(_missed(RECIPE, answered(1, 0)))
    without = RECIPE.with_(engine_args={"enable_prefix_caching": False})
    assert _missed(without, answered(1, 0)) is None


def test_the_peak_is_of_the_whole_family_and_counts_shared_pages_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    run = fake_run("peak")
    try:
        family = run.whole_family()
        resident = sum(process.memory_info().rss for process in family.values())
        with PeakMemory(run.folder) as peak:
            pass
        assert max(process.memory_full_info().uss for process in family.values()) < peak.bytes < resident
    finally:
        run.end()
