"""Each fault with the plugin, and without it."""

import pytest

from support.vllm_plugin import Outcome

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]  # two engines load, beside whatever else this machine does


def test_sigmoid_scores_with_a_bias_choose_the_experts_of_the_formula(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("sigmoid_routing") < 1e-5
    assert plain.cases["sigmoid_routing"]["error"].startswith("AssertionError")


def test_softmax_routing_is_left_alone(mended: Outcome, plain: Outcome) -> None:
    assert (
        mended.value("softmax_routing_is_left_alone") == plain.value("softmax_routing_is_left_alone") == [False, None]
    )


@pytest.mark.parametrize("case", ["expert_maps", "expert_maps_with_weights_on_the_input"])
def test_two_ranks_with_half_the_experts_sum_to_one_rank_with_all(mended: Outcome, plain: Outcome, case: str) -> None:
    assert mended.value(case) < 1e-5
    # Without, the kernel reads another rank's weights: it crashes, or answers wrongly.
    assert "signal" in plain.cases[case] or plain.value(case) > 0.1


def test_a_stage_receives_without_a_profile_run(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("pipeline_buffers") == [[1.0] * 4] * 3
    assert plain.cases["pipeline_buffers"]["error"].startswith("AssertionError")


def test_collectives_of_variable_size(mended: Outcome, plain: Outcome) -> None:
    gathered, first, second, untouched = mended.value("variable_collectives")
    assert gathered == [[1, 1], [2, 2], [2, 2], [2, 2]]
    # Rank r put in (r + 1) * [0..7]: the sum is 3 * [0..7]. Rank 0 gets one row, rank 1 gets three; -1 is padding.
    assert first == [[0, 3], [-1, -1], [-1, -1]]
    assert second == [[6, 9], [12, 15], [18, 21]]
    assert untouched
    assert "NotImplementedError" in plain.cases["variable_collectives"]["error"]


def test_ranks_share_memory_on_one_host_only(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("names_on_one_host") is True
    assert mended.value("names_on_two_hosts") is False
    assert plain.value("names_on_two_hosts") is True


def test_ranks_of_one_host_talk_through_memory_and_gloo_finds_the_same(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("collectives_by_memory") == ["SharedMemory", [True, True], []]
    assert "NotImplementedError" in plain.cases["collectives_by_memory"]["error"]


@pytest.mark.parametrize("case", ["collectives_of_two_hosts", "collectives_without_room_in_memory"])
def test_ranks_that_share_no_memory_talk_through_gloo(mended: Outcome, case: str) -> None:
    assert mended.value(case) == ["module", [True, True], []]


def test_who_waits_for_a_message_leaves_the_core_to_others(mended: Outcome, plain: Outcome) -> None:
    (looks, busy_s, waited_s), *others = mended.value("waits_of_a_queue")
    assert others == plain.value("waits_of_a_queue")[1:] == ["timed out", True, "cancelled"]
    assert looks[2] > 0.09, "a sleeper looks every 0.1 s; the writer of an earlier message may wake it twice"
    assert busy_s < waited_s / 2
    assert plain.value("waits_of_a_queue")[0][0][0] < 0.05, "vLLM's own reader looks without pause"


def test_a_prompt_of_one_token_is_no_hit_below_zero(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("one_token_of_a_cache_in_files") == [0, 16]
    assert plain.value("one_token_of_a_cache_in_files") == [-16, 16]


def test_ray_finds_a_device_on_the_cpu(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("ray_device_key") == "GPU"
    assert plain.value("ray_device_key") == ""


def test_latent_attention_keeps_chunks_and_the_prefix_cache(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("latent_attention") == [True, 128, True]
    chunked, tokens, cached = plain.value("latent_attention")
    assert (chunked, cached) == (False, False)
    assert tokens > 128


def test_heads_in_a_dimension_of_their_own_are_all_turned(mended: Outcome, plain: Outcome) -> None:
    assert max(mended.value("rotary_heads")) < 1e-5
    queries, keys, *flat = plain.value("rotary_heads")
    assert min(queries, keys) > 0.1
    assert max(flat) < 1e-5


def test_workers_are_forked_where_the_switch_is_on(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("start_method") == "fork"
    assert plain.value("start_method") == "spawn"


def test_api_servers_are_forked_and_count_together(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("start_method_of_servers") == ["fork", 1.0]
    assert plain.value("start_method_of_servers") == ["spawn"]


def test_a_child_of_the_engine_does_not_outlive_its_parent(mended: Outcome, plain: Outcome) -> None:
    assert mended.value("orphan_of_a_fork") is False
    assert plain.value("orphan_of_a_fork") is True


def test_the_engines_log_tells_what_was_mended(mended: Outcome, plain: Outcome) -> None:
    assert "overspan plugin: mended Ray on the CPU platform for vLLM 0.32.0+cpu" in mended.log
    assert "overspan plugin" not in plain.log
