"""Counts of microseconds say the same as the list of the times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.bench.metrics import TimeCounts, summary

times = st.lists(st.integers(0, 10**9).map(lambda us: us / 1000))


@given(times, times)
def test_a_tally_summarises_as_the_list_does(some: list[float], more: list[float]) -> None:
    one, other = TimeCounts(), TimeCounts()
    one.add(some)
    other.add(more)
    whole = one + other
    expected = summary(some + more)
    assert whole.count == len(some + more)
    assert whole.summary().model_dump() == pytest.approx(expected.model_dump(), abs=0.0011)
