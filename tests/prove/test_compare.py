"""The first difference is found and told."""

from typing import get_args

from overspan.prove.cases import CACHE_TOKENS, PREEMPTED, Manner, ReferenceAnswer, all_cases, first_difference

ASKED = all_cases(320, 128)
EXPECTED = [ReferenceAnswer(tokens=list(range(case.tokens)), margins=[0.5] * case.tokens) for case in ASKED]


def _got() -> list[list[int]]:
    return [list(answer.tokens) for answer in EXPECTED]


def test_equal_answers_have_none() -> None:
    assert first_difference(ASKED, EXPECTED, _got()) is None


def test_one_token_in_the_middle() -> None:
    got = _got()
    got[3][7] = 300
    found = first_difference(ASKED, EXPECTED, got)
    assert found is not None
    assert (found.prompt, found.position, found.expected, found.got, found.margin) == (3, 7, 7, 300, 0.5)
    assert found.text == "batch prompt 3, position 7: 7, not 300; the reference's won by 0.5"


def test_an_answer_that_ends_early_differs_where_it_ends() -> None:
    got = _got()
    del got[0][20:]
    found = first_difference(ASKED, EXPECTED, got)
    assert found is not None
    assert (found.position, found.expected, found.got) == (20, 20, None)


def test_an_answer_that_goes_on_differs_where_it_should_end() -> None:
    got = _got()
    got[0].append(5)
    found = first_difference(ASKED, EXPECTED, got)
    assert found is not None
    assert (found.position, found.expected, found.got, found.margin) == (24, None, 5, None)


def test_a_rounding_tie_is_called_one() -> None:
    expected = [EXPECTED[0].with_(margins=[1e-6] * 24), *EXPECTED[1:]]
    got = _got()
    got[0][0] = 9
    found = first_difference(ASKED, expected, got)
    assert found is not None
    assert "rounding tie" in found.text


def test_every_manner_is_asked_and_long_prompts_exceed_a_step() -> None:
    assert {case.manner for case in ASKED} == set(get_args(Manner))
    assert all(len(case.prompt) > 2 * 128 for case in ASKED if case.manner == "chunked")
    assert max(case.tokens for case in ASKED) == 256
    shared = [case.prompt for case in ASKED if case.manner == "prefix"]
    assert all(prompt[:128] == shared[0][:128] for prompt in shared)
    assert [case.prompt for case in ASKED if case.manner == "uncached"] == shared[1:]
    assert all_cases(320, 128) == ASKED


def test_the_preempted_cases_do_not_fit_the_cache_of_one_engine_nor_of_two() -> None:
    block = 32
    needed = sorted(-(-(len(case.prompt) + case.tokens) // block) for case in ASKED if case.manner == "preempted")
    assert len(needed) == PREEMPTED
    # An uneven share between two engines included.
    assert sum(needed[: PREEMPTED // 2 - 1]) > CACHE_TOKENS // block - 1
    for manner in ("chunked", "prefix"):
        lengths = [len(case.prompt) + case.tokens for case in ASKED if case.manner in (manner, "long")]
        assert sum(lengths) < CACHE_TOKENS
