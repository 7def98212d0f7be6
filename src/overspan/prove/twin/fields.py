"""What the fields of a config.json may be that a twin keeps as they are. Pure.

What transformers refuses would else be told by a traceback of the engine's Python, after a twin was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from overspan.schema.errors import InputError

_Allowed = tuple[str, Callable[[Any], bool]]
"""In words, and as a test."""

# Source: transformers 5.19, activations.py (ACT2CLS).
_ACTIVATIONS: Final = (
    *("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_10", "gelu_python", "quick_gelu"),
    *("gelu_python_tanh", "gelu_accurate", "relu", "relu2", "relu6", "leaky_relu", "prelu", "xielu", "mish", "laplace"),
    *("linear", "hardswish", "sigmoid", "sqrtsoftplus", "tanh"),
)
_LARGEST: Final = 2**53
"""Above it a float skips whole numbers."""


def _one_of(*names: str) -> _Allowed:
    return (f"one of {', '.join(names)}" if len(names) > 1 else names[0]), lambda value: value in names


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < _LARGEST


_TRUTH: Final[_Allowed] = ("true or false", lambda value: isinstance(value, bool))
_COUNT: Final[_Allowed] = ("a whole number above 0", lambda value: _whole(value, 1))
_NUMBER: Final[_Allowed] = (
    "a number above 0, below 2**53",
    lambda value: type(value) in (int, float) and 0 < value < _LARGEST,
)
# transformers takes no whole number for these two.
_POINTED: Final[_Allowed] = (
    "a number with a decimal point, above 0",
    lambda value: type(value) is float and 0 < value < _LARGEST,
)
_FRACTION: Final[_Allowed] = ("a number between 0 and 1, as 1e-6", lambda value: type(value) is float and 0 < value < 1)
_LAYERS: Final[_Allowed] = (
    "a list of layers' numbers",
    lambda value: isinstance(value, list) and all(_whole(layer, 0) for layer in value),
)
# Routing has one form in transformers' models of these families (5.19: modeling_deepseek_v3.py, modeling_minimax_m2.py;
# vLLM 0.32 makes the bias of noaux_tc alone): of another the reference would be another model's.
_FIELDS: Final[Mapping[str, _Allowed]] = {
    "hidden_act": _one_of(*_ACTIVATIONS),
    "scoring_func": _one_of("sigmoid"),
    "topk_method": _one_of("noaux_tc"),
    "rms_norm_eps": _FRACTION,
    "rope_theta": _NUMBER,
    "routed_scaling_factor": _POINTED,
    "mlp_only_layers": _LAYERS,
    **dict.fromkeys(("decoder_sparse_step", "moe_layer_freq", "sliding_window"), _COUNT),
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_topk_prob", "tie_word_embeddings"), _TRUTH),
    **dict.fromkeys(("use_qk_norm", "use_routing_bias"), _TRUTH),
}


# Source: transformers 5.19, modeling_rope_utils.py (ROPE_INIT_FUNCTIONS, and what they compute with).
_ROPE_TYPE: Final = _one_of("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
_ROPE: Final[Mapping[str, _Allowed]] = {
    **dict.fromkeys(("rope_type", "type"), _ROPE_TYPE),
    **dict.fromkeys(("rope_theta", "factor"), _NUMBER),
}


def check(config: Mapping[str, Any], kept: Iterable[str]) -> None:
    """Raises InputError where a kept field is neither absent nor what it may be: names it, and what that is."""
    for field in kept:
        _check(field, config.get(field), _FIELDS.get(field))
    for field in ("rope_parameters", "rope_scaling"):
        held = config.get(field)
        _check(field, held, ("a mapping", lambda value: isinstance(value, dict)))
        for key, allowed in _ROPE.items():
            _check(f"{field}.{key}", (held or {}).get(key), allowed)


def _check(field: str, value: Any, allowed: _Allowed | None) -> None:
    if value is not None and allowed is not None and not allowed[1](value):
        raise InputError(f"config.json: '{field}' is {repr(value)[:80]}; it must be {allowed[0]}")
