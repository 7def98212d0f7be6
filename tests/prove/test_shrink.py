"""A twin is refused by the layouts that refuse the real model, and for the same reasons."""

import pytest

from overspan.catalog import accounting, models
from overspan.catalog.families import FAMILIES
from overspan.inventory import here
from overspan.planner import refuse
from overspan.prove.twin.shrink import LARGEST_DEGREE, shrink, width
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from support.deepseek import DEEPSEEK_V3
from support.qwen import QWEN3_MOE

M2 = models.config_of("minimax-m2.5-bf16")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
LAYOUTS = [Layout(tp=tp) for tp in range(1, 17)] + [Layout(tp=tp, ep=tp) for tp in range(2, 17)]


def _reasons(config: dict[str, object], layout: Layout) -> list[str]:
    """The kinds of reasons, without the numbers in them."""
    machine = here.this_machine()
    host = machine.hosts[0].with_(gpus=[], cores=64, memory_bytes=2**50)
    inventory = machine.with_(device="cpu", hosts=[host])
    model = accounting.count("model", config)
    reasons = refuse.refusals(model, layout, inventory, Recipe(name="model", model="model"))
    return sorted("".join(letter for letter in reason if not letter.isdigit()) for reason in reasons)


@pytest.mark.parametrize(
    "real", [M2, LLAMA, QWEN3_MOE, DEEPSEEK_V3], ids=["minimax-m2", "llama", "qwen3-moe", "deepseek"]
)
def test_the_same_layouts_are_refused_for_the_same_reasons(real: dict[str, object]) -> None:
    twin = shrink(real)
    small = {**twin.config, "architectures": [twin.architecture]}
    for layout in LAYOUTS:
        refused, by_twin = _reasons(real, layout), _reasons(small, layout)
        assert refused == by_twin, layout.label
    assert any(_reasons(real, layout) for layout in LAYOUTS)


def test_an_architecture_that_no_cpu_engine_runs_says_why() -> None:
    with pytest.raises(InputError, match=r"MiniMaxM3Sparse.*kernels for GPUs alone") as refused:
        shrink(models.config_of("minimax-m3-mxfp8"))
    assert "overspan verify" in (refused.value.next or "")


def test_heads_divide_a_llamas_hidden_size_as_its_config_wants() -> None:
    """transformers (5.19, LlamaConfig) refuses another one, whatever head_dim says."""
    assert shrink(LLAMA | {"head_dim": 64}).config["hidden_size"] % 9 == 0


@pytest.mark.parametrize("real", [1536, 768, 11008, 14336, 1537, 17, 28672])
def test_a_width_keeps_which_degrees_divide_it(real: int) -> None:
    small = width(real)
    assert 32 <= small <= max(real, 720720)
    for degree in range(1, LARGEST_DEGREE + 1):
        assert (small % degree == 0) == (real % degree == 0), degree


def test_heads_and_experts_are_counted_as_in_the_real_model() -> None:
    twin = shrink(M2)
    for field in ("num_attention_heads", "num_key_value_heads", "num_local_experts", "num_experts_per_tok"):
        assert twin.config[field] == M2[field], field
    assert twin.extra == {"rotary_dim": 16, "scoring_func": "sigmoid", "use_routing_bias": True, "use_qk_norm": True}
    # Without it transformers 5.17 turns whole heads, and the reference is another model's.
    assert twin.config["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert twin.config["rope_parameters"]["rope_theta"] == 5_000_000


def test_it_says_what_the_real_model_has_and_the_twin_has_not() -> None:
    notes = shrink({**M2, "quantization_config": {"quant_method": "fp8"}}).notes
    assert [note.partition(":")[0] for note in notes] == ["dequantised", "without MTP modules"]


def test_mtp_modules_are_kept_where_the_engine_has_a_class_for_them() -> None:
    twin = shrink(DEEPSEEK_V3)
    assert (twin.mtp_modules, twin.extra["num_nextn_predict_layers"]) == (1, 1)
    assert not any("MTP" in note for note in twin.notes)
    assert shrink(M2).mtp_modules == 0
    other = shrink({**QWEN3_MOE, "num_nextn_predict_layers": 2})
    assert other.mtp_modules == 0
    assert "none of Qwen3MoeForCausalLM are known" in other.notes[-1]


@pytest.mark.parametrize("modules", ["1", -1, 1.5, True])
def test_a_count_of_mtp_modules_that_is_none_is_named(modules: object) -> None:
    with pytest.raises(InputError, match="'num_nextn_predict_layers' is"):
        shrink({**DEEPSEEK_V3, "num_nextn_predict_layers": modules})


def test_latent_attention_keeps_what_its_kernels_are_made_for() -> None:
    twin = shrink(DEEPSEEK_V3).config
    for field in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_group", "topk_group"):
        assert twin[field] == DEEPSEEK_V3[field], field
    assert (twin["num_attention_heads"], twin["num_key_value_heads"]) == (16, 16)
    sizes_only = {name: value for name, value in DEEPSEEK_V3.items() if name not in ("n_group", "topk_group")}
    assert shrink(sizes_only).config["n_group"] == 8


def test_lists_of_layers_are_cut() -> None:
    real = {**M2, "attn_type_list": list(range(62))}
    assert shrink(real).config["attn_type_list"] == [0, 1, 2, 3]


def test_an_unknown_architecture_names_those_that_are_known() -> None:
    with pytest.raises(UnknownName) as caught:
        shrink({**LLAMA, "architectures": ["LamaForCausalLM"]})
    assert "LlamaForCausalLM" in str(caught.value)
    assert all(len(family.widths) >= 1 for family in FAMILIES.values())


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 0), ("num_hidden_layers", "30"), ("intermediate_size", None)]
)
def test_a_bad_number_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"'{field}' is {value!r}"):
        shrink({**LLAMA, field: value})


@pytest.mark.parametrize(
    ("real", "field", "values", "allowed"),
    [
        (LLAMA, "hidden_act", ["x", "", 5, ["silu"]], "one of silu, swish, gelu"),
        (LLAMA, "rms_norm_eps", ["x", 0, True, [1], float("nan")], "a number between 0 and 1"),
        (LLAMA, "rope_theta", [0, -1, "x", 1e999, 10**30], "a number above 0"),
        (LLAMA, "tie_word_embeddings", ["x", 0, 1], "true or false"),
        (LLAMA, "attention_bias", ["x", {}], "true or false"),
        (LLAMA, "rope_scaling", ["", 5, []], "a mapping"),
        (QWEN3_MOE, "decoder_sparse_step", [0, "x", True], "a whole number above 0"),
        (QWEN3_MOE, "mlp_only_layers", [5, "x", ["x"], [-1], {}], "a list of layers' numbers"),
        (DEEPSEEK_V3, "moe_layer_freq", [0, 1.5], "a whole number above 0"),
        (DEEPSEEK_V3, "scoring_func", ["x", "softmax", 1], "sigmoid"),
        (DEEPSEEK_V3, "topk_method", ["greedy"], "noaux_tc"),
        (DEEPSEEK_V3, "routed_scaling_factor", ["x", 0.0, 1], "a number with a decimal point"),
    ],
)
def test_a_kept_field_that_no_engine_takes_is_named_with_what_it_may_be(
    real: dict[str, object], field: str, values: list[object], allowed: str
) -> None:
    for value in values:
        with pytest.raises(InputError) as refused:
            shrink({**real, field: value})
        assert refused.value.what.startswith(f"config.json: '{field}' is {value!r}; it must be {allowed}")
        assert refused.value.exit_code == 2


def test_a_kind_of_positions_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match=r"'rope_scaling.rope_type' is 'x'; it must be one of default, linear"):
        shrink({**LLAMA, "rope_scaling": {"rope_type": "x", "factor": 2.0}})


def test_what_published_configs_state_is_kept() -> None:
    published = {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 500000, "rms_norm_eps": 1e-5, "attention_bias": None}
    kept = shrink(LLAMA | published).config
    assert {name: kept.get(name) for name in published} == published
    # A null is no value: the family's own stands in its place.
    assert shrink({**M2, "rope_theta": None}).config["rope_parameters"]["rope_theta"] == 5_000_000


GARBAGE: list[object] = [None, 0, -1, 5, "x", True, 1e999, 3.5, [], ["x"], [[1]], [None], {}, {"a": 1}, 10**30]
FIELDS = ("head_dim", "rotary_dim", "rope_parameters", "rope_scaling", "layer_types", "attn_type_list", "topk_group")


@pytest.mark.parametrize(
    "real", [M2, LLAMA, QWEN3_MOE, DEEPSEEK_V3], ids=["minimax-m2", "llama", "qwen3-moe", "deepseek"]
)
def test_whatever_stands_in_a_config_ends_in_a_twin_or_in_one_clear_error(real: dict[str, object]) -> None:
    refused = set()
    for field in {*real, *FIELDS}:
        for value in GARBAGE:
            try:
                assert shrink({**real, field: value}, "real").model_dump_json()
            except (InputError, UnknownName) as error:
                assert field in error.what or field in ("architectures", "quantization_config"), error.what
                refused.add(field)
    assert {"architectures", "hidden_size", "head_dim", "rope_parameters"} <= refused


@pytest.mark.parametrize(
    ("real", "said"),
    [
        (
            DEEPSEEK_V3 | {"n_group": 7},
            r"n_group \(7\) does not divide 'n_routed_experts' \(256\); nearest: 252 and 259",
        ),
        (DEEPSEEK_V3 | {"topk_group": 9}, "'topk_group' is 9, and 'n_group' 8"),
        (QWEN3_MOE | {"num_experts_per_tok": 200}, "'num_experts_per_tok' is 200, and 'num_experts' 128"),
        (
            LLAMA | {"num_key_value_heads": 4},
            r"num_key_value_heads \(4\) does not divide 'num_attention_heads' \(9\); nearest: 8 and 12",
        ),
        (
            LLAMA | {"hidden_size": 577},
            r"num_attention_heads \(9\) does not divide 'hidden_size' \(577\); nearest: 576 and 585",
        ),
        (
            models.config_of("minimax-m2.5") | {"intermediate_size": 1500},
            r"a block of its quantisation \(128\) does not divide 'intermediate_size' \(1500\); nearest: 1408 and 1536",
        ),
    ],
)
def test_sizes_that_do_not_divide_name_the_nearest_that_do(real: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        shrink(real, "real")
