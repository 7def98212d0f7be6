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
_LATENT_NORM: Final = re.compile(r"kv_a_layernorm")
_LATENT_VALUES: Final = re.compile(r"kv_b_proj")
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


class CompletedConfig(NamedTuple):
    """A config with what its headers tell filled in, what was (counted, and assumed), and what they hold."""

    config: dict[str, Any]
    counted: list[str]
    assumed: list[str]
    layers: Layers | None = None
    experts: Experts | None = None


def complete(config: Mapping[str, Any], tensors: list[Tensor]) -> CompletedConfig:
    """Fill in what a config.json does not say, from the headers of its weights.

    Nothing that the config does say is changed. What neither says (experts a token, the width of a head) is assumed.
    """
    layers = layers_of(tensors)
    if layers is None:
        return CompletedConfig(dict(config), [], [])
    filled = _Filling(shapes.text_part(config), tensors, layers)
    outer = {key: value for key, value in config.items() if key not in filled.raw and key not in shapes.TEXT}
    return CompletedConfig({**outer, **filled.raw}, filled.counted, filled.assumed, layers, filled.experts)


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


class _Filling:
    """One config (`raw`) while it is filled in."""

    def __init__(self, raw: dict[str, Any], tensors: list[Tensor], layers: Layers) -> None:
        self.raw, self.tensors, self.layers = raw, tensors, layers
        self.counted: list[str] = []
        self.assumed: list[str] = []
        self.experts = experts_of(tensors, layers)
        found: dict[str, int] = {"num_hidden_layers": layers.number, **_ends(tensors, layers)}
        if self.experts:
            found["num_experts"] = self.experts.number
        for key, value in found.items():
            if self.missing(key):
                self.fill(key, value)
        self.hidden = self.stated("hidden_size")
        inside = [(layers.inside(tensor.name), tensor) for tensor in tensors]
        # Weights of the layers, by the part of their name that comes after the layer's number.
        self.held = [(rest, tensor) for rest, tensor in inside if rest is not None and _WEIGHT.search(tensor.name)]
        self._attention()
        self._widths()
        if self.experts:
            self._mixture(self.experts)
        if "layer_types" not in raw and str(raw.get("model_type")) not in shapes.KNOWN:
            self._kinds()

    def missing(self, key: str) -> bool:
        return all(self.raw.get(name) is None for name in shapes.KEYS[key])

    def stated(self, key: str) -> int:
        """What the config says under any name of a key; 0 where it says nothing that could be a size."""
        found = (self.raw.get(name) for name in shapes.KEYS[key])
        return next((value for value in found if isinstance(value, int) and value > 0), 0)

    def fill(self, key: str, value: int, *, assumed: bool = False, more: str = "") -> None:
        """Put in a size, and note that it was counted or assumed."""
        self.raw[key] = value
        (self.assumed if assumed else self.counted).append(f"{key} ({value}{more})")

    def _first(self, name: re.Pattern[str]) -> int | None:
        """Outputs of the first matrix of a name that takes the model's width."""
        widths = (outputs(tensor, self.hidden) for rest, tensor in self.held if name.search(rest))
        return next((width for width in widths if width), None)

    def _length(self, name: re.Pattern[str], dimensions: int) -> int | None:
        """The first side of the first tensor of a name that has so many dimensions."""
        sides = (one.shape[0] for rest, one in self.held if name.search(rest) and len(one.shape) == dimensions)
        return next(sides, None)

    def _attention(self) -> None:
        """Heads: their number follows from the rows of the projections, once the width of one is known."""
        latent = self._first(_LATENT)
        if latent and self.raw.get("kv_lora_rank") is None:
            self._latent(latent)
            return
        if not self.missing("num_attention_heads") and not self.missing("num_key_value_heads"):
            return
        query, key, fused = (self._first(name) for name in (_QUERY, _KEY, _FUSED))
        query = query or (min(fused, self.hidden) if fused else None)
        width = self._head_dim(query)
        if self.missing("num_attention_heads"):
            heads = max(1, (query or self.hidden) // width)
            self.fill("num_attention_heads", heads, assumed=not query, more=f" of {width}")
        if self.missing("num_key_value_heads") and (key or fused):
            rows = key or ((fused or 0) - (query or 0)) // 2
            self.fill("num_key_value_heads", max(1, rows // width))

    def _head_dim(self, query: int | None) -> int:
        stated, heads = self.stated("head_dim"), self.stated("num_attention_heads")
        if stated or heads:
            return stated or max(1, (query or self.hidden) // heads)
        norm = self._length(_NORM, 1)
        if norm and query and norm < query:
            self.raw["head_dim"] = norm
            return norm
        width = math.gcd(query or self.hidden, HEAD_DIM)
        self.fill("head_dim", width, assumed=True)
        return width

    def _latent(self, rows: int) -> None:
        """Latent attention (DeepSeek): the cache is one vector a token; the norm and the projection tell its parts."""
        norm = self._length(_LATENT_NORM, 1)
        rank = norm or rows - 64
        nope = self.raw.get("qk_nope_head_dim") or HEAD_DIM
        self.raw |= {"qk_rope_head_dim": rows - rank, "qk_nope_head_dim": nope}
        self.fill("kv_lora_rank", rank, assumed=not norm)
        wide, query = self._length(_LATENT_VALUES, 2), self._length(_QUERY, 2)
        if self.missing("num_attention_heads"):
            heads = max(1, (query or 128 * (nope + rows - rank)) // (nope + rows - rank))
            self.fill("num_attention_heads", heads, assumed=True, more=f", heads of {nope} + {rows - rank}")
        heads = self.stated("num_attention_heads")
        if wide and heads and self.raw.get("v_head_dim") is None:
            self.raw["v_head_dim"] = max(1, wide // heads - nope)

    def _widest(self, chosen: Iterable[Tensor]) -> int:
        """The other side of matrices that take or give the model's width; 0 where there is none."""
        sides = [side for one in chosen for side in [outputs(one, self.hidden)] if side and side != self.hidden]
        return min(sides, default=0)

    def _of(self, module: Module) -> list[Tensor]:
        return [tensor for rest, tensor in self.held if module_of(rest, 10**6) == module]

    def _widths(self) -> None:
        """Widths of the feed-forward parts."""
        experts = self.experts
        stated = any(self.raw.get(key) is not None for key in shapes.KEYS["moe_intermediate_size"])
        if self.missing("intermediate_size") and (width := self._widest(self._of("mlp"))):
            self.fill("intermediate_size", width)
        if experts and not stated:
            named = [tensor for _, tensor in self.held if experts.names.search(tensor.name)]
            stacked = (min(one.shape[1:]) for one in named if len(one.shape) == 3)
            if width := self._widest(named) or min(stacked, default=0):
                self.fill("moe_intermediate_size", width)
        shared = self._widest(self._of("shared_experts"))
        if experts and shared and not shapes.shared_width(self.raw):
            self.fill("shared_expert_intermediate_size", shared)

    def _mixture(self, experts: Experts) -> None:
        """Which layers have experts, and how many of them a token takes: no header tells the second."""
        number = self.layers.number
        held = [index in experts.layers for index in range(number)]
        if self.stated("num_hidden_layers") == number and kinds.with_experts(self.raw, number) != held:
            self.raw["mlp_layer_types"] = ["sparse" if flag else "dense" for flag in held]
            self.counted.append(f"layers with experts ({sum(held)} of {number})")
        if self.missing("num_experts_per_tok"):
            chosen = next((few for least, few in _USUAL_CHOICE if experts.number >= least), 1)
            self.raw["num_experts_per_tok"] = chosen
            words = f"the experts that a token takes: {chosen} of {experts.number}"
            self.assumed.append(f"num_experts_per_tok ({words})")

    def _kinds(self) -> None:
        """Layers that keep a state in place of a cache, by the names of what only these have."""
        found = [tensor for tensor in self.tensors if _STATE.search(self.layers.inside(tensor.name) or "")]
        state = {index for tensor in found if (index := self.layers.of(tensor.name)) < self.layers.number}
        if state:
            words = ("full_attention", "linear_attention")
            self.raw["layer_types"] = [words[index in state] for index in range(self.layers.number)]
            self.counted.append(f"layers that keep a state ({len(state)} of {self.layers.number})")
