"""The simulated fleet against queueing formulas, where they are exact."""

import math

import pytest

from overspan.planner.fleet import Arrivals, Outcome, Unit, simulate
from overspan.schema.slo import Slo

# Seeds are fixed, so nothing is left to chance; the limits are three times what eight other seeds scattered by.
MANY = 8_000


def run(unit: Unit, rate: float, tokens: float = 100.0, units: int = 1, **load: object) -> Outcome:
    asked = Arrivals.model_validate(
        {"rate_per_s": rate, "requests": MANY, "output_tokens": tokens, "seed": 1, "warm_up": 0.1, **load}
    )
    return simulate(unit, units, asked)


def erlang_c(servers: int, offered: float) -> float:
    """The share of arrivals that wait in M/M/c (A. K. Erlang, 1917)."""
    busy = offered / servers
    last = offered**servers / math.factorial(servers) / (1 - busy)
    return last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.6), (4, 0.7), (16, 0.8)])
def test_m_m_c(servers: int, busy: float) -> None:
    """Places of one pace are servers: the wait is Erlang's."""
    service = 1.0  # 100 tokens of 10 ms
    rate = busy * servers / service
    seen = run(Unit(slots=servers, step_s=[0.01], gpus=1), rate, exponential=True)
    wait = erlang_c(servers, rate * service) * service / (servers - rate * service)
    assert seen.wait_ms / 1e3 == pytest.approx(wait, rel=0.25)
    assert seen.held == pytest.approx(busy * servers, rel=0.06)
    assert not seen.saturated


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.85])
def test_m_d_1(busy: float) -> None:
    """Prompts of one length before one prefill worker: Pollaczek and Khinchine with no variance."""
    unit = Unit(prefill_workers=1, prompt_s=0.1, slots=10_000, step_s=[1e-6], gpus=2)
    seen = run(unit, busy / 0.1)
    assert seen.wait_ms == pytest.approx(100 * busy / (2 * (1 - busy)), rel=0.2)
    assert seen.prefill_busy == pytest.approx(busy, rel=0.04)
    assert seen.ttft_ms["mean"] == pytest.approx(seen.wait_ms + 100, rel=1e-6)


@pytest.mark.parametrize(("busy", "spread"), [(0.5, 0.2), (0.8, 0.9)])
def test_m_g_1(busy: float, spread: float) -> None:
    """One place, even service times: Pollaczek and Khinchine with their variance."""
    rate = busy / 1.0
    seen = run(Unit(slots=1, step_s=[0.01], gpus=1), rate, spread=spread)
    variance = (2 * spread) ** 2 / 12
    assert seen.wait_ms / 1e3 == pytest.approx(rate * (1 + variance) / (2 * (1 - busy)), rel=0.15)


@pytest.mark.parametrize(("busy", "exponential"), [(0.5, True), (0.8, False), (0.8, True)])
def test_m_g_1_processor_sharing(busy: float, exponential: bool) -> None:
    """A pace that falls as 1/n is processor sharing: time in it is S/(1 - busy), whatever the lengths (Kleinrock)."""
    steps = [0.01 * n for n in range(1, 2000)]
    seen = run(Unit(slots=2000, step_s=steps, gpus=1), busy / 1.0, exponential=exponential)
    assert seen.e2e_ms["mean"] / 1e3 == pytest.approx(1 / (1 - busy), rel=0.2)
    assert seen.wait_ms == 0


def test_littles_law_and_the_pace() -> None:
    """Requests held = rate x time held, and every request's pace lies between that of one and that of all."""
    steps = [0.01 + 0.0005 * n for n in range(1, 65)]
    seen = run(Unit(slots=64, step_s=steps, gpus=8), 20.0, units=4)
    assert seen.held * 4 == pytest.approx(20.0 * (seen.e2e_ms["mean"] - seen.ttft_ms["mean"]) / 1e3, rel=0.03)
    assert steps[0] * 1e3 <= seen.tpot_ms["p50"] <= steps[-1] * 1e3
    assert seen.output_tokens_per_s == pytest.approx(2000, rel=0.03)


def test_too_many_requests_are_told_as_such() -> None:
    unit = Unit(slots=4, step_s=[0.01], gpus=1)
    assert run(unit, 4.4).saturated
    assert not run(unit, 2.0).saturated


def test_limits_and_seeds() -> None:
    unit = Unit(slots=4, step_s=[0.01], gpus=1)
    load = Arrivals(rate_per_s=2.4, requests=6_000, output_tokens=100, exponential=True, seed=3)
    free, bound = simulate(unit, 1, load), simulate(unit, 1, load, Slo(ttft_ms=1.0))
    assert free.attainment == 1.0
    assert free.ttft_ms == bound.ttft_ms
    # Who finds a place at once has no wait: 1 - Erlang's C.
    assert bound.attainment == pytest.approx(1 - erlang_c(4, 2.4), abs=0.06)
