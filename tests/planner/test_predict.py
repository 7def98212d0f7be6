"""Predictions are sums of counted terms that move the way physics says, and say how sure they are."""

import math
from typing import Any

import pytest

from overspan.catalog import calibration, hardware, models
from overspan.planner import answer, explain, features, fit, inputs, memory, predict
from overspan.planner.features import Case, Setting
from overspan.planner.fit import MeasuredTime
from overspan.schema.errors import InputError
from overspan.schema.layout import parse_layout
from overspan.schema.workload import Demand


def case(layout: str = "tp4", gpu: str = "h200", model: str = "minimax-m2.5", users: int = 8, **setting: Any) -> Case:
    return Case(
        model=models.find(model),
        layout=parse_layout(layout),
        hardware=hardware.find(gpu),
        demand=Demand(isl=1024, osl=1024, concurrency=users),
        setting=Setting(**setting),
    )


@pytest.mark.parametrize(
    ("tokens", "reached"), [(1, 8), (2, 15.8), (4, 30.5), (8, 57.4), (16, 102), (64, 222), (128, 252)]
)
def test_distinct_experts_as_counted_on_the_reference_page(tokens: int, reached: float) -> None:
    assert features.distinct_experts(256, 8, tokens) == pytest.approx(reached, rel=0.01)


def test_fullest_rank_of_two_at_one_token() -> None:
    """Eight experts fall on two ranks: the fuller holds 5.09 in the mean (binomial, exact)."""
    exact = sum(math.comb(8, k) * max(k, 8 - k) for k in range(9)) / 2**8
    assert 4 * features.fullest_share(8, 256, 2) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize(
    ("model", "gb"), [("minimax-m2.5-bf16", 20.83), ("minimax-m2.5", 11.08), ("minimax-m2.5-nvfp4", 10.74)]
)
def test_bytes_of_a_step_as_counted_on_the_reference_page(model: str, gb: float) -> None:
    rank, whole = features.step_bytes(case("tp1", model=model), 1)
    assert rank / 1e9 == pytest.approx(gb, rel=0.01)
    assert whole == pytest.approx(rank)


@pytest.mark.parametrize("layout", ["tp4", "dp4", "tp2dp2", "tep4", "dep4"])
def test_a_rank_holds_its_share_of_the_experts_over_tp_and_dp(layout: str) -> None:
    model = models.find("minimax-m2.5")
    assert memory.weight_bytes(model, parse_layout(layout))["experts"] == model.bytes_of("experts") / 4


def test_188_collectives_a_step() -> None:
    assert features.collectives(case("tp2")) == 3 * 62
    assert features.collectives(case("tp2", model="llama-3.3-70b")) == 2 * 80
    assert features.collectives(case("tp1")) == 0


def test_users_in_step_wait_before_their_first_token_for_what_others_feel_after_it() -> None:
    apart = case("tp2", users=32)
    together = apart._replace(demand=apart.demand.with_(in_step=True))
    one, other = predict.predict(apart), predict.predict(together)
    assert other.ttft_ms > 2 * one.ttft_ms
    assert other.terms["prefill"] == pytest.approx(one.terms["prefill"] / 2, rel=0.3)
    alone = case("tp2", users=1)
    burst = alone._replace(demand=alone.demand.with_(in_step=True))
    assert predict.predict(burst).tpot_ms == predict.predict(alone).tpot_ms
    assert predict.predict(burst).ttft_ms <= predict.predict(alone).ttft_ms


def test_terms_sum_to_tpot() -> None:
    seen = predict.predict(case())
    assert sum(seen.terms.values()) == pytest.approx(seen.tpot_ms)
    assert sum(seen.ttft_terms.values()) == pytest.approx(seen.ttft_ms)
    assert seen.terms[seen.bound] == max(seen.terms.values())
    assert seen.interval.low < seen.tpot_ms < seen.interval.high
    assert seen.ceiling_tpot_ms < seen.tpot_ms


def test_it_moves_the_way_physics_says() -> None:
    base = predict.predict(case()).tpot_ms
    assert predict.predict(case(users=64)).tpot_ms > base
    assert predict.predict(case(eager=True)).tpot_ms > base
    assert predict.predict(case(gpu="h100")).tpot_ms > base
    assert predict.predict(case(model="minimax-m2.5-bf16")).tpot_ms > base
    assert (
        predict.predict(case(engine_version="0.16.0")).tpot_ms > predict.predict(case(engine_version="0.19.0")).tpot_ms
    )
    assert predict.predict(case(kv_value_bytes=1.0, users=64)).terms["kv"] < predict.predict(case(users=64)).terms["kv"]


def test_unmeasured_hardware_widens_the_interval() -> None:
    def width(gpu: str) -> float:
        seen = predict.predict(case("tp1", gpu, "smollm2-135m"))
        return seen.interval.high / seen.interval.low

    assert width("l40s") > 1.2 * width("h200")
    seen = predict.predict(case("tp1", "l40s", "smollm2-135m"))
    assert seen.basis == "extrapolated"
    assert "no measurement on ada" in seen.notes[0]


def test_a_model_that_was_not_fitted_has_a_wider_interval() -> None:
    seen = {name: predict.predict(case("tp1", "h200", name)) for name in ("minimax-m2.7-nvfp4", "qwen3-30b-a3b")}
    widths = {name: one.interval.high / one.interval.low for name, one in seen.items()}
    assert widths["qwen3-30b-a3b"] > 1.1 * widths["minimax-m2.7-nvfp4"]
    assert "no measurement on Qwen3MoeForCausalLM" in seen["qwen3-30b-a3b"].notes[0]


@pytest.mark.parametrize(("users", "measured_ms"), [(1, 6.74), (8, 16.0), (32, 35.1)])
def test_two_h200_in_pp2_that_were_not_fitted(users: int, measured_ms: float) -> None:
    """Measured with synthetic weights at full depth, NVFP4 through Marlin (docs/sources.md#counted-bytes)."""
    asked = case("pp2", "h200", "minimax-m2.5-nvfp4", users, backend="marlin")
    short = asked._replace(demand=Demand(isl=128, osl=512, concurrency=users))
    assert predict.predict(short).tpot_ms == pytest.approx(measured_ms, rel=0.15)


@pytest.mark.parametrize(
    ("layout", "gpu", "layer_us", "backend"),
    [("tp8", "b300", 248, "native"), ("tep8", "b300", 181, "native"), ("tp8", "h200", 105, "marlin")],
)
def test_minimax_m3_at_one_user(layout: str, gpu: str, layer_us: float, backend: str) -> None:
    """The reference page's own law, bytes / (0.8 bandwidth) + 60 layers, from measurements that were not fitted."""
    asked = case(layout, gpu, "minimax-m3-mxfp8", 1, backend=backend)
    rank, _ = features.step_bytes(asked, 1)
    law = rank / 0.8 / asked.hardware.bandwidth.bytes_per_s * 1e3 + 60 * layer_us / 1e3
    seen = predict.predict(asked)
    assert seen.interval.low <= law <= seen.interval.high
    assert seen.tpot_ms == pytest.approx(law, rel=0.25)
    assert "sparse attention" in seen.notes[0]


def test_full_cache_makes_users_wait() -> None:
    free, full = predict.predict(case(users=64)), predict.predict(case(users=64), capacity=32)
    assert full.running == 32
    assert full.ttft_terms["queue"] == pytest.approx(full.ttft_ms - full.ttft_terms["queue"] + 1024 * full.tpot_ms)
    assert full.tpot_ms < free.tpot_ms
    with pytest.raises(InputError, match="holds no request of 2048 tokens"):
        predict.predict(case(), capacity=0.5)


def test_linear_attention_is_not_guessed() -> None:
    odd = models.find("minimax-m2.5")
    odd = odd.with_(attention=odd.attention.with_(linear_layers=40))
    with pytest.raises(InputError, match="40 of its layers have linear attention"):
        predict.predict(case()._replace(model=odd))


def test_speculation_pays_by_acceptance() -> None:
    base = predict.predict(case(users=1)).tpot_ms
    good = predict.predict(case(users=1, draft_tokens=2, draft_layers=1, acceptance=0.85)).tpot_ms
    bad = predict.predict(case(users=1, draft_tokens=2, draft_layers=1, acceptance=0.0)).tpot_ms
    assert good < base < bad
    assert Setting(draft_tokens=2, acceptance=0.5).tokens_per_step == 1.75


@pytest.mark.parametrize(("variant", "low", "high"), [(None, 16.1, 17.5), ("cutlass", 12.9, 14.5), ("pp2", 12.7, 14.3)])
def test_seed_000_is_predicted(variant: str | None, low: float, high: float) -> None:
    """The seed's own measurements (13.7 and 13.5 within 6 %), from its own recipe on its own inventory."""
    settings = (f"variant={variant}",) if variant else ()
    recipe, _ = inputs.resolve("minimax-m2.5-nvfp4", settings)
    asked = answer.PlanQuestion(
        name="minimax-m2.5-nvfp4",
        settings=settings,
        inventory="two-sparks",
        layout=recipe.layout,
        demand=Demand(isl=128, osl=256, concurrency=1),
    )
    assert low <= answer.answer(asked).layouts[0].item.prediction.interactivity <= high


def test_sentence_names_time_and_next_step() -> None:
    recipe, model = inputs.resolve("minimax-m2.5-nvfp4", ["engine=vllm-ray"])
    seen = predict.predict(case("tep2", "gb10", model.name, 1, eager=True, backend="marlin"))
    said = explain.explain(seen, recipe)
    assert " tok/s a user: " in said
    assert "ms weights" in said
    assert "ms host" in said
    assert "CUDA graphs on native vLLM" in said


def test_two_explanations_are_told_apart_by_an_experiment() -> None:
    sparks = case("tep2", "gb10", "minimax-m2.5-nvfp4", 1, eager=True, backend="marlin")
    said = explain.tell_apart(predict.predict(sparks._replace(gpus_per_host=1)))
    assert said is not None
    assert "NCCL_DEBUG=INFO" in said
    assert explain.tell_apart(predict.predict(case("tp1"))) is None


def test_fit_finds_the_constants_that_made_the_points() -> None:
    truth = calibration.shipped()
    changed = {
        name: held.with_(value=held.value * (1.2 if name in ("layer", "kv") else 1.0))
        for name, held in truth.constants.items()
    }
    made = truth.with_(constants=changed)
    kinds = [("h200", "minimax-m2.5"), ("b200", "minimax-m2.7-nvfp4")]
    cases = [
        case(layout, gpu, model, users)
        for layout in ("tp1", "tp4", "tep8")
        for users in (1, 8, 64, 256)
        for gpu, model in kinds
    ]
    points = [
        MeasuredTime(predict.predict(one, made).tpot_ms, features.decode(one, one.demand.concurrency)) for one in cases
    ]
    fitted = fit.fit(truth, points, sigma=0.001)
    for one in cases:
        assert predict.predict(one, fitted).tpot_ms == pytest.approx(predict.predict(one, made).tpot_ms, rel=0.005)
    assert fitted.constants["layer"].value == pytest.approx(truth.constants["layer"].value * 1.2, rel=0.05)


def test_one_point_moves_little_what_is_known_well() -> None:
    truth = calibration.shipped()
    one = case()
    twice = MeasuredTime(2 * predict.predict(one).tpot_ms, features.decode(one, 8))
    fitted = fit.fit(truth, [twice])
    assert 1.0 < predict.predict(one, fitted).tpot_ms / predict.predict(one).tpot_ms < 2.0
    assert all(constant.value >= 0 for constant in fitted.constants.values())


def test_latent_attention_and_shared_experts_are_more_kernels() -> None:
    """DeepSeek-V3 pays for its two-step queries and its shared expert in each layer, whatever the batch."""
    seen = features.decode(case("tp8", model="deepseek-v3"), 8)
    assert seen["layer_mla"] == pytest.approx(61e-3)
    assert seen["layer_shared"] == pytest.approx(58e-3)
    plain = features.decode(case("tp8", model="qwen3-30b-a3b"), 8)
    assert "layer_mla" not in plain
    assert "layer_shared" not in plain


def test_dense_products_hide_behind_their_reads() -> None:
    """At one token the reads are all; far beyond the ridge the products are (roofline)."""
    one = case("tp1", "h200", "llama-3.3-70b")
    read = 138e9 / 4.8e12 * 1e3  # without embedding and head: 70.6 B less 2 x 1.05 B, in BF16
    assert features.dense_excess_ms(one, 1) < 0.001 * read
    many = features.dense_flops_ms(one, 100_000)
    assert features.dense_excess_ms(one, 100_000) == pytest.approx(many, rel=0.02)


def test_one_user_feels_no_prompt_of_others() -> None:
    assert "prefill" not in predict.predict(case(users=1)).terms
    assert "prefill" not in predict.predict(case("dp4", "h200", "llama-3.3-70b", users=4)).terms
    assert predict.predict(case(users=2)).terms["prefill"] > 0
    assert predict.predict(case(users=1)).ttft_terms["first_steps"] == 0


def test_collectives_over_more_hosts_take_more_steps() -> None:
    two, four = (case(f"tp{n}", "gb10", "llama-3.3-70b")._replace(gpus_per_host=1) for n in (2, 4))
    assert features.decode(four, 1)["collective_latency"] == pytest.approx(
        2 * features.decode(two, 1)["collective_latency"]
    )


def test_a_slower_clock_makes_short_kernels_longer() -> None:
    a100, h100 = (features.decode(case("tp1", gpu, "smollm2-135m"), 1)["layer"] for gpu in ("a100", "h100"))
    assert a100 / h100 == pytest.approx(1.98 / 1.41)


def test_a_dear_launch_is_felt_without_graphs_alone() -> None:
    from overspan.schema.hardware import Launch

    one = case("tp1", "h200", "smollm2-135m", eager=True)
    slow = one.hardware.with_(launch=Launch(seconds=12e-6, source="test"))
    dear = one._replace(hardware=slow)
    assert features.decode(dear, 1)["layer_eager"] == pytest.approx(2 * features.decode(one, 1)["layer_eager"])
    assert features.decode(dear, 1)["layer"] == features.decode(one, 1)["layer"]


def test_layers_that_draft_take_memory_and_are_read() -> None:
    from overspan.planner import memory
    from overspan.schema.recipe import Recipe

    spec, layout = models.find("deepseek-v3"), parse_layout("tep8")
    plain = Recipe(name="m", model="deepseek-v3")
    mtp = Recipe(name="m", model="deepseek-v3", engine_args={"speculative_config": {"method": "mtp"}})
    more = memory.fit(spec, layout, mtp, 141e9).weights - memory.fit(spec, layout, plain, 141e9).weights
    assert more == pytest.approx(spec.mtp_bytes / 8)
    alone, drafts = case("tp8", model="deepseek-v3"), case("tp8", model="deepseek-v3", draft_tokens=1, draft_layers=1)
    assert features.step_bytes(drafts, 8)[0] == pytest.approx(features.step_bytes(alone, 8)[0] * 62 / 61)


def test_a_lone_prompt_is_all_on_one_group_and_many_are_spread() -> None:
    """Exact: the fuller of two groups holds of n prompts E[max(k, n - k)], here of a Poisson number of them."""
    dep2 = case("dep2", users=32)
    assert features.fullest_group(dep2, 1e-6) == pytest.approx(2, rel=1e-3)
    mean = 3.0
    chance = [math.exp(-mean) * mean**k / math.factorial(k) for k in range(40)]
    exact = sum(a * b * max(i, j) for i, a in enumerate(chance) for j, b in enumerate(chance)) / mean
    assert features.fullest_group(dep2, 2 * mean) == pytest.approx(exact, rel=1e-6)
    assert features.fullest_group(case("dep8"), 1e-6) == pytest.approx(8, rel=1e-3)
    assert 1 < features.fullest_group(dep2, 1e4) < 1.02
    # Groups without experts in common wait for nobody, and users in step bring their prompts to all groups at once.
    assert features.fullest_group(case("dp2", model="llama-3.3-70b"), 0.1) == 1
    together = dep2._replace(demand=dep2.demand.with_(in_step=True))
    assert features.fullest_group(together, 0.1) == 1


def test_groups_that_share_experts_stall_for_each_others_prompts() -> None:
    """Two H200s: drawn lengths cost dep2 more than tp2 (12 and 6 ms at 32 users, measured): steps wait for a group."""
    extra = {}
    for layout in ("dep2", "tp2"):
        drawn = case(layout, model="minimax-m2.5-nvfp4", users=32, backend="marlin")
        drawn = drawn._replace(demand=Demand(isl=1024, osl=128, concurrency=32))
        equal = drawn._replace(demand=drawn.demand.with_(in_step=True))
        extra[layout] = predict.predict(drawn).tpot_ms - predict.predict(equal).tpot_ms
    assert extra["dep2"] > 1.2 * extra["tp2"]


def test_launches_are_hidden_behind_a_gpu_that_is_busy() -> None:
    """A step with a prompt leaves its graph: that costs where the GPU would have waited, and fewer layers cost less."""

    def excess(users: int, isl: float, model: str = "minimax-m2.5") -> float:
        asked = case("tp4", users=users, model=model)._replace(demand=Demand(isl=isl, osl=64, concurrency=users))
        counted = features.decode(asked, float(users))["prefill_launches"]
        return counted / (1 - math.exp(-(users - 1) / 64))  # of each step with a prompt

    assert excess(8, 64) > 1.5 * excess(8, 8192)
    assert excess(8, 1024) > excess(512, 1024)
    launched = 62 * (69 + 340) / 1e3
    assert 0 < excess(2, 16) < launched
    assert excess(2, 16, "smollm2-135m") < launched * 30 / 62


def test_gathered_tokens_cross_the_link_once_for_all_groups() -> None:
    """All-gather and reduce-scatter move (r - 1) / r of all tokens each; two all-reduces twice that of the group's."""
    dep8, tp8 = case("dep8"), case("tp8")
    assert features.wire_ms(dep8, 1024) == pytest.approx(features.wire_ms(tp8, 1024) / 2)
    assert features.wire_ms(case("tp1"), 1024) == 0
    both = features.collectives(case("tp2dp2ep"))
    assert both == features.collectives(case("tp2")) + features.collectives(case("dep2"))


def test_a_cache_without_room_is_said_and_not_taken_for_no_limit() -> None:
    with pytest.raises(InputError, match="the cache holds no request of 2048 tokens"):
        predict.predict(case(), capacity=0.0)
