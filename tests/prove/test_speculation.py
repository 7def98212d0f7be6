"""What a twin goes through of a recipe's speculative decoding, and what is said of the rest."""

import pytest

from overspan.prove.twin import speculation
from overspan.schema.recipe import ArgValue

MODEL = "deepseek-ai/DeepSeek-V3"
MTP: dict[str, object] = {"method": "mtp", "num_speculative_tokens": 1}


@pytest.mark.parametrize(
    "asked",
    [
        MTP,
        {**MTP, "method": "deepseek_mtp"},
        {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4},
    ],
)
def test_the_twin_drafts_as_the_recipe_asks(asked: dict[str, object]) -> None:
    found = speculation.of(asked, MODEL, mtp_modules=1)
    assert (found.config, found.left_out) == (asked, [])


def test_json_text_is_read_as_the_engine_reads_it() -> None:
    text = '{"method": "mtp", "num_speculative_tokens": 1}'
    assert speculation.of(text, MODEL, mtp_modules=1).config == MTP


def test_nothing_asked_is_nothing_left_out() -> None:
    assert speculation.of(None, MODEL, mtp_modules=1) == speculation.Speculation()


def test_the_models_own_name_and_kernels_of_gpus_are_no_part_of_it() -> None:
    found = speculation.of({**MTP, "model": MODEL, "moe_backend": "triton"}, MODEL, mtp_modules=1)
    assert found.config == MTP
    assert found.left_out == ["speculative_config.moe_backend"]


@pytest.mark.parametrize(
    ("asked", "modules", "said"),
    [
        (MTP, 0, "speculative_config (mtp: the twin has no MTP modules)"),
        ({"method": "eagle3", "model": "x/y"}, 1, "speculative_config (eagle3: its weights have no twin)"),
        (
            {"model": "x/y", "num_speculative_tokens": 2},
            1,
            "speculative_config (a draft model: its weights have no twin)",
        ),
        ({**MTP, "model": "x/y"}, 1, "speculative_config (mtp of x/y, which has no twin)"),
        ("{method: mtp}", 1, "speculative_config (it is no JSON mapping)"),
        ("[1]", 1, "speculative_config (it is no JSON mapping)"),
        ([MTP], 1, "speculative_config (it is no JSON mapping)"),
    ],
)
def test_what_has_no_twin_is_named_and_not_started(asked: ArgValue, modules: int, said: str) -> None:
    found = speculation.of(asked, MODEL, modules)
    assert (found.config, found.left_out) == (None, [said])


def test_the_v1_runner_drafts_in_no_pipeline() -> None:
    found = speculation.of(MTP, MODEL, mtp_modules=1, stages=2)
    assert found.config is None
    assert "drafts in no pipeline" in found.left_out[0]


@pytest.mark.parametrize(
    ("drafted", "accepted", "said"),
    [
        (0, 0, "nothing was drafted"),
        (9, 0, "none of 9 drafted tokens were taken"),
        (9, 9, "all of 9 drafted tokens were taken"),
    ],
)
def test_drafts_that_all_ended_alike_prove_half_of_it(drafted: int, accepted: int, said: str) -> None:
    assert said in str(speculation.not_drafted(drafted, accepted))


def test_drafts_that_were_taken_and_refused_prove_it() -> None:
    assert speculation.not_drafted(9, 4) is None
