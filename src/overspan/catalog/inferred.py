"""What a config.json leaves out, read from the names and shapes in the headers of the weights.

Everything that is filled in here is named in a warning: counted where the headers hold it, assumed where nothing does.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from overspan.catalog import kinds, shapes
from overspan.catalog.headers import Tensor, module_of
from overspan.schema.model import ModelSpec, Module

_INDEX: Final = re.compile(r"(?:^|[._/])(\d{1,5})(?=[._/]|$)")
_NUMBER: Final = re.compile(r"(\d+)(?:[._/]|$)")
_ASIDE: Final = re.compile(r"vision|visual|image|audio|speech|vit\.|mtp|draft")
_DRAFTS: Final = re.compile(r"eh_proj|enorm|hnorm|shared_head")
_STATE: Final = re.compile(r"A_log|dt_bias|conv1d|ssm|linear_attn|time_mix|mamba")
_QUERY: Final = re.compile(r"(?:^|[._])(?:q_proj|wq|query|q_b_proj|to_q)(?:[._]|$)")
_KEY: Final = re.compile(r"(?:^|[._])(?:k_proj|wk|key|to_k)(?:[._]|$)")
_FUSED: Final = re.compile(r"qkv|query_key_value|c_attn|Wqkv", re.IGNORECASE)
_LATENT: Final = re.compile(r"kv_a_proj")
_NORM: Final = re.compile(r"(?:q|query)_?(?:layer)?norm")
_WEIGHT: Final = re.compile(r"(?:^|[._])(?:weight|qweight|weight_packed|kernel)$")
_FEWEST_EXPERTS: Final = 4  # so many equal matrices side by side in a layer are experts
HEAD_DIM: Final = 128  # of nearly every model since 2023; assumed where nothing tells
# Experts at least, experts a token: of Qwen3, DeepSeek-V3 and MiniMax-M2; of Mixtral.
_USUAL_CHOICE: Final = ((32, 8), (4, 2))


class Layers(NamedTuple):
    """Where the layers of a language model stand in a checkpoint: their common prefix, and how many there are."""

    prefix: str
    number: int
    drafting: int

    def inside(self, name: str) -> str | None:
        """The part of a tensor's name that comes after its layer's number; None outside of the layers."""
        match = _NUMBER.match(name, len(self.prefix)) if name.startswith(self.prefix) else None
        return name[match.end() :] if match else None

    def of(self, name: str) -> int:
        """The number of the layer that a tensor inside of one belongs to."""
        match = _NUMBER.match(name, len(self.prefix))
        return int(match.group(1)) if match else -1


def layers_of(tensors: Iterable[Tensor]) -> Layers | None:
    """The layers: what is numbered first in the names of most bytes, without towers beside the language model."""
    sizes: Counter[str] = Counter()
    numbers: dict[str, set[int]] = defaultdict(set)
    drafts: dict[str, set[int]] = defaultdict(set)
    for tensor in tensors:
        found = _INDEX.search(tensor.name)
        if found is None or _ASIDE.search(tensor.name):
            continue
        prefix, number = tensor.name[: found.start(1)], int(found.group(1))
        sizes[prefix] += tensor.bytes * tensor.copies
        numbers[prefix].add(number)
        if _DRAFTS.search(tensor.name):
            drafts[prefix].add(number)
    if not sizes:
        return None
    prefix = max(sizes, key=lambda name: sizes[name])
    own = numbers[prefix] - drafts[prefix]
    return Layers(prefix, max(own) + 1, len(drafts[prefix])) if own else None


class Experts(NamedTuple):
    """The experts of a layer: how many, which tensors hold them, and in which layers."""

    number: int
    names: re.Pattern[str]
    layers: frozenset[int]


def experts_of(tensors: Iterable[Tensor], layers: Layers) -> Experts | None:
    """The experts, whatever their name: many equal matrices side by side in a layer, or stacked in one tensor."""
    beside: dict[str, set[tuple[int, int]]] = defaultdict(set)  # where, and in which layer how many
    stacked: dict[int, set[tuple[int, str]]] = defaultdict(set)  # how many, in which layer and where
    for tensor in tensors:
        rest = layers.inside(tensor.name)
        if rest is None or len(tensor.shape) < 2 or layers.of(tensor.name) >= layers.number:
            continue
        index, found = layers.of(tensor.name), _INDEX.search(f".{rest}")
        if found is not None and tensor.copies >= _FEWEST_EXPERTS:
            beside[rest[: found.start(1) - 1]].add((index, tensor.copies))
        elif len(tensor.shape) >= 3 and tensor.shape[0] >= _FEWEST_EXPERTS and 1 not in tensor.shape:
            stacked[tensor.shape[0]].add((index, rest))
    if beside:
        head = max(beside, key=lambda name: sum(number for _, number in beside[name]))
        where = _within(layers, rf"{re.escape(head)}\d+(?:[._/]|$)")
        return Experts(max(number for _, number in beside[head]), where, frozenset(index for index, _ in beside[head]))
    if stacked:
        count = max(stacked, key=lambda number: len(stacked[number]))
        ends = "|".join(sorted({re.escape(rest) for _, rest in stacked[count]}))
        return Experts(count, _within(layers, f"(?:{ends})"), frozenset(index for index, _ in stacked[count]))
    return None


def _within(layers: Layers, rest: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(layers.prefix)}\d+[._/]{rest}")


def module_by_shape(name: str, held: list[Tensor], spec: ModelSpec, layers: Layers, experts: Experts | None) -> Module:
    """The kind of a module whose name may tell nothing: experts by their place, router, embedding and head by shape."""
    if experts is not None and experts.names.search(f"{name}."):
        return "experts"
    said = module_of(name, spec.layers)
    if said != "other":
        return said
    shape = max((one.shape for one in held), key=math.prod, default=())
    if layers.inside(name) is None and shape == (spec.vocab, spec.hidden):
        return "lm_head" if re.search("head|out", name) else "embedding"
    if spec.experts and shape == (spec.experts, spec.hidden):
        return "router"
    return "norm" if len(shape) == 1 else "other"


class Completed(NamedTuple):
    """A config with what its headers tell filled in, what was (counted, and assumed), and what they hold."""

    config: dict[str, Any]
    counted: list[str]
    assumed: list[str]
    layers: Layers | None = None
    experts: Experts | None = None


def complete(config: Mapping[str, Any], tensors: list[Tensor]) -> Completed:
    """Fill in what a config.json does not say, from the headers of its weights.

    Nothing that the config does say is changed. What neither says (experts a token, the width of a head) is assumed.
    """
    raw, counted, assumed = shapes.text_part(config), list[str](), list[str]()
    layers = layers_of(tensors)
    if layers is None:
        return Completed(dict(config), [], [])
    experts = experts_of(tensors, layers)
    found: dict[str, int] = {"num_hidden_layers": layers.number, **_ends(tensors, layers)}
    if experts:
        found["num_experts"] = experts.number
    for key, value in found.items():
        if _missing(raw, key):
            raw[key] = value
            counted.append(f"{key} ({value})")
    hidden = _stated(raw, "hidden_size")
    inside = [(layers.inside(tensor.name), tensor) for tensor in tensors]
    held = [(rest, tensor) for rest, tensor in inside if rest is not None and _WEIGHT.search(tensor.name)]
    _attention(raw, held, hidden, counted, assumed)
    _widths(raw, held, hidden, experts, counted)
    if experts:
        _mixture(raw, experts, layers, counted, assumed)
    if "layer_types" not in raw and str(raw.get("model_type")) not in shapes.KNOWN:
        _kinds(raw, tensors, layers, counted)
    outer = {key: value for key, value in config.items() if key not in raw and key not in shapes.TEXT}
    return Completed({**outer, **raw}, counted, assumed, layers, experts)


def _missing(raw: Mapping[str, Any], key: str) -> bool:
    return all(raw.get(name) is None for name in shapes.KEYS[key])


def _stated(raw: Mapping[str, Any], key: str) -> int:
    """What the config says under any name of a key; 0 where it says nothing that could be a size."""
    found = (raw.get(name) for name in shapes.KEYS[key])
    return next((value for value in found if isinstance(value, int) and value > 0), 0)


def _ends(tensors: list[Tensor], layers: Layers) -> dict[str, int]:
    """Vocabulary and width of the model, from its embedding: the tallest matrix outside of the layers."""
    flat = [one for one in tensors if len(one.shape) == 2 and layers.inside(one.name) is None]
    flat = [one for one in flat if not _ASIDE.search(one.name) and one.dtype in ("BF16", "F16", "F32", "F8_E4M3")]
    named = [one for one in flat if module_of(one.name, layers.number) == "embedding"]
    tallest = max(named or flat, key=lambda one: one.shape[0], default=None)
    return {"vocab_size": tallest.shape[0], "hidden_size": tallest.shape[1]} if tallest is not None else {}


def outputs(tensor: Tensor, inputs: int) -> int | None:
    """Outputs of a matrix that takes some inputs, however it is stored; None where the shape does not fit them."""
    if len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape
    packed = 8 if tensor.dtype == "I32" else 2 if tensor.dtype == "U8" else 1
    if tensor.dtype == "I32" and rows == inputs:
        return columns * packed  # AWQ packs outputs
    if columns * packed == inputs:
        return rows
    return columns if rows * (packed if tensor.dtype == "I32" else 1) == inputs else None  # GPTQ packs inputs


def _first(held: list[tuple[str, Tensor]], name: re.Pattern[str], hidden: int) -> int | None:
    """Outputs of the first matrix of a name that takes the model's width."""
    widths = (outputs(tensor, hidden) for rest, tensor in held if name.search(rest))
    return next((width for width in widths if width), None)


def _attention(
    raw: dict[str, Any], held: list[tuple[str, Tensor]], hidden: int, counted: list[str], assumed: list[str]
) -> None:
    """Heads: their number follows from the rows of the projections, once the width of one is known."""
    latent = _first(held, _LATENT, hidden)
    if latent and raw.get("kv_lora_rank") is None:
        _latent(raw, held, latent, counted, assumed)
        return
    if not _missing(raw, "num_attention_heads") and not (_missing(raw, "num_key_value_heads")):
        return
    query, key, fused = (_first(held, name, hidden) for name in (_QUERY, _KEY, _FUSED))
    query = query or (min(fused, hidden) if fused else None)
    width = _head_dim(raw, held, query, hidden, assumed)
    if _missing(raw, "num_attention_heads"):
        heads = max(1, (query or hidden) // width)
        raw["num_attention_heads"] = heads
        (counted if query else assumed).append(f"num_attention_heads ({heads} of {width})")
    if _missing(raw, "num_key_value_heads") and (key or fused):
        rows = key or ((fused or 0) - (query or 0)) // 2
        raw["num_key_value_heads"] = max(1, rows // width)
        counted.append(f"num_key_value_heads ({raw['num_key_value_heads']})")


def _head_dim(
    raw: dict[str, Any], held: list[tuple[str, Tensor]], query: int | None, hidden: int, assumed: list[str]
) -> int:
    stated, heads = (_stated(raw, key) for key in ("head_dim", "num_attention_heads"))
    if stated or heads:
        return stated or max(1, (query or hidden) // heads)
    norm = next((one.shape[0] for rest, one in held if _NORM.search(rest) and len(one.shape) == 1), None)
    if norm and query and norm < query:
        raw["head_dim"] = norm
        return norm
    width = math.gcd(query or hidden, HEAD_DIM)
    raw["head_dim"] = width
    assumed.append(f"head_dim ({width})")
    return width


def _latent(
    raw: dict[str, Any], held: list[tuple[str, Tensor]], rows: int, counted: list[str], assumed: list[str]
) -> None:
    """Latent attention (DeepSeek): the cache is one vector a token, whose parts the norm and the projection tell."""
    norm = next((one.shape[0] for rest, one in held if "kv_a_layernorm" in rest and len(one.shape) == 1), None)
    rank = norm or rows - 64
    nope = raw.get("qk_nope_head_dim") or HEAD_DIM
    raw |= {"kv_lora_rank": rank, "qk_rope_head_dim": rows - rank, "qk_nope_head_dim": nope}
    (counted if norm else assumed).append(f"kv_lora_rank ({rank})")
    wide = next((one.shape[0] for rest, one in held if "kv_b_proj" in rest and len(one.shape) == 2), None)
    query = next((one.shape[0] for rest, one in held if _QUERY.search(rest) and len(one.shape) == 2), None)
    if _missing(raw, "num_attention_heads"):
        raw["num_attention_heads"] = max(1, (query or 128 * (nope + rows - rank)) // (nope + rows - rank))
        assumed.append(f"num_attention_heads ({raw['num_attention_heads']}, heads of {nope} + {rows - rank})")
    heads = _stated(raw, "num_attention_heads")
    if wide and heads and raw.get("v_head_dim") is None:
        raw["v_head_dim"] = max(1, wide // heads - nope)


def _widths(
    raw: dict[str, Any], held: list[tuple[str, Tensor]], hidden: int, experts: Experts | None, counted: list[str]
) -> None:
    """Widths of the feed-forward parts: the other side of the matrices that take or give the model's width."""

    def widest(chosen: Iterable[Tensor]) -> int:
        sides = [side for one in chosen for side in [outputs(one, hidden)] if side and side != hidden]
        return min(sides, default=0)

    stated = any(raw.get(key) is not None for key in shapes.KEYS["moe_intermediate_size"])
    dense = [tensor for rest, tensor in held if module_of(rest, 10**6) == "mlp"]
    if _missing(raw, "intermediate_size") and (width := widest(dense)):
        raw["intermediate_size"] = width
        counted.append(f"intermediate_size ({width})")
    if experts and not stated:
        named = [tensor for _, tensor in held if experts.names.search(tensor.name)]
        width = widest(named) or min((min(one.shape[1:]) for one in named if len(one.shape) == 3), default=0)
        if width:
            raw["moe_intermediate_size"] = width
            counted.append(f"moe_intermediate_size ({width})")
    shared = widest(tensor for rest, tensor in held if module_of(rest, 10**6) == "shared_experts")
    if experts and shared and not shapes.shared_width(raw):
        raw["shared_expert_intermediate_size"] = shared
        counted.append(f"shared_expert_intermediate_size ({shared})")


def _mixture(raw: dict[str, Any], experts: Experts, layers: Layers, counted: list[str], assumed: list[str]) -> None:
    """Which layers have experts, and how many of them a token takes: no header tells the second."""
    held = [index in experts.layers for index in range(layers.number)]
    if _stated(raw, "num_hidden_layers") == layers.number and kinds.with_experts(raw, layers.number) != held:
        raw["mlp_layer_types"] = ["sparse" if flag else "dense" for flag in held]
        counted.append(f"layers with experts ({sum(held)} of {layers.number})")
    if _missing(raw, "num_experts_per_tok"):
        chosen = next((few for least, few in _USUAL_CHOICE if experts.number >= least), 1)
        raw["num_experts_per_tok"] = chosen
        assumed.append(f"num_experts_per_tok (the experts that a token takes: {chosen} of {experts.number})")


def _kinds(raw: dict[str, Any], tensors: list[Tensor], layers: Layers, counted: list[str]) -> None:
    """Layers that keep a state in place of a cache, by the names of what only these have."""
    cached: set[int] = set()
    state: set[int] = set()
    for tensor in tensors:
        rest = layers.inside(tensor.name)
        if rest is None:
            continue
        if _STATE.search(rest):
            state.add(layers.of(tensor.name))
        elif _KEY.search(rest) or _FUSED.search(rest) or _LATENT.search(rest):
            cached.add(layers.of(tensor.name))
    states = sorted(index for index in state if index < layers.number)
    if states:
        words = ("full_attention", "linear_attention")
        raw["layer_types"] = [words[index in state] for index in range(layers.number)]
        counted.append(f"layers that keep a state ({len(states)} of {layers.number})")
