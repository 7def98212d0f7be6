"""A model counted from its config.json: every matrix of every layer, by module and format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from overspan.catalog import formats, quantisation, shapes
from overspan.schema.model import ModelSpec, Module, ModuleWeights, Quantisation

# Routers and embeddings stay in the model's own type in every checkpoint format known here.
_PLAIN: Final = ("router", "norm", "embedding", "lm_head")
_GATED: Final = ("gate_proj", "up_proj", "down_proj")


class Matrix(NamedTuple):
    """Equal matrices: where they stand, how many parameters each has, how many there are."""

    path: str
    module: Module
    parameters: int
    copies: int = 1


def count(
    name: str, config: Mapping[str, Any], *, sidecar: Mapping[str, Any] | None = None, with_headers: bool = False
) -> ModelSpec:
    """The model that a config.json describes.

    Args:
        name: what to call it.
        config: the parsed config.json; of a model for text and images, its text part is counted.
        sidecar: the parsed hf_quant_config.json, where there is one.
        with_headers: the headers of the weights are at hand, and tell each module's format.

    Raises:
        ModelUnavailable: a size is missing or absurd, or the quantisation contradicts itself.
    """
    shape = shapes.read(name, config)
    spec = shape.spec
    parts = {key: value for key, value in config.items() if key.endswith("_config")}
    rules = quantisation.read({**shape.raw, **parts}, sidecar, with_headers=with_headers)
    drafting = _by_format(_mtp(shape), spec.dtype, rules)
    aside = ["the vision part is not counted: only the headers of its weights tell its size"]
    return spec.with_(
        mtp_parameters=sum(item.parameters for item in drafting),
        mtp_bytes=sum(item.bytes for item in drafting),
        quantisation=rules,
        modules=_by_format(_matrices(shape), spec.dtype, rules),
        warnings=[*spec.warnings, *(aside if "vision_config" in config else [])],
    )


def _by_format(matrices: Iterator[Matrix], dtype: str, rules: Quantisation | None) -> list[ModuleWeights]:
    sums: dict[tuple[Module, str], int] = defaultdict(int)
    for matrix in matrices:
        plain = rules is None or matrix.module in _PLAIN or quantisation.ignored(rules.ignore, matrix.path)
        sums[matrix.module, dtype if plain or rules is None else rules.format] += matrix.parameters * matrix.copies
    return [
        ModuleWeights(module=module, format=held, parameters=total, bytes=formats.bytes_of(held, total))
        for (module, held), total in sums.items()
        if total
    ]


def _matrices(shape: shapes.Shape) -> Iterator[Matrix]:
    spec = shape.spec
    yield Matrix("model.embed_tokens", "embedding", spec.vocab * spec.hidden)
    if shape.positions:
        yield Matrix("model.embed_positions", "embedding", shape.positions * spec.hidden)
    if not spec.tied_embeddings:
        yield Matrix("lm_head", "lm_head", spec.vocab * spec.hidden)
    yield Matrix("model.norm", "norm", spec.hidden)
    for index in range(spec.layers):
        yield from _layer(shape, index, shape.is_moe[index])


def _mtp(shape: shapes.Shape) -> Iterator[Matrix]:
    """Layers that draft (DeepSeek-V3 report, section 2.2): the model's last layer again, and what joins two states.

    Embedding and head are the model's own.
    """
    spec = shape.spec
    last = spec.layers - 1
    for index in range(spec.layers, spec.layers + spec.mtp_layers):
        yield Matrix(f"model.layers.{index}.eh_proj", "mtp", 2 * spec.hidden * spec.hidden)
        yield from _layer(shape, last, shape.is_moe[last])


def _layer(shape: shapes.Shape, index: int, moe: bool) -> Iterator[Matrix]:
    spec, prefix = shape.spec, f"model.layers.{index}"
    yield Matrix(f"{prefix}.input_layernorm", "norm", 2 * spec.hidden)
    if shape.kinds[index] == "linear":
        # A linear layer mixes through projections of about the size of attention's.
        wide = spec.attention.heads * spec.attention.head_dim
        yield Matrix(f"{prefix}.linear_attn", "attention", 4 * spec.hidden * wide)
    elif shape.kinds[index] != "none":
        yield from _attention(shape, f"{prefix}.self_attn")
    if moe:
        yield from _moe(shape, f"{prefix}.{shape.moe_name}")
    else:
        yield from _mlp(shape, f"{prefix}.mlp", "mlp", spec.intermediate)


def _attention(shape: shapes.Shape, path: str) -> Iterator[Matrix]:
    held, hidden = shape.spec.attention, shape.spec.hidden
    if held.kind == "mla":
        yield from _mla(shape, path)
        return
    for name, heads in (("q_proj", held.heads), ("k_proj", held.kv_heads), ("v_proj", held.kv_heads)):
        yield Matrix(f"{path}.{name}", "attention", hidden * heads * held.head_dim)
    yield Matrix(f"{path}.o_proj", "attention", held.heads * held.head_dim * hidden)
    if held.qk_norm == "tensor":
        yield Matrix(f"{path}.q_norm", "norm", (held.heads + held.kv_heads) * held.head_dim)
    elif held.qk_norm == "head":
        yield Matrix(f"{path}.q_norm", "norm", 2 * held.head_dim)


def _mla(shape: shapes.Shape, path: str) -> Iterator[Matrix]:
    held, hidden = shape.spec.attention, shape.spec.hidden
    rope, value, rank = held.rope_head_dim or 0, held.value_dim or held.head_dim, held.kv_lora_rank or 0
    wide = held.heads * held.head_dim
    if held.q_lora_rank:
        yield Matrix(f"{path}.q_a_proj", "attention", hidden * held.q_lora_rank)
        yield Matrix(f"{path}.q_b_proj", "attention", held.q_lora_rank * wide)
    else:
        yield Matrix(f"{path}.q_proj", "attention", hidden * wide)
    yield Matrix(f"{path}.kv_a_proj_with_mqa", "attention", hidden * (rank + rope))
    yield Matrix(f"{path}.kv_b_proj", "attention", rank * held.heads * (held.head_dim - rope + value))
    heads, width = (shape.raw.get(f"index_{name}") for name in ("n_heads", "head_dim"))
    if isinstance(heads, int) and isinstance(width, int):  # DeepSeek V3.2: what chooses the tokens that are read
        yield Matrix(f"{path}.indexer.wq_b", "attention", (held.q_lora_rank or hidden) * heads * width)
        yield Matrix(f"{path}.indexer.wk", "attention", hidden * (width + heads))
    yield Matrix(f"{path}.o_proj", "attention", held.heads * value * hidden)


def _mlp(shape: shapes.Shape, path: str, module: Module, width: int) -> Iterator[Matrix]:
    for name in _GATED[3 - shape.mlp_matrices :]:
        yield Matrix(f"{path}.{name}", module, shape.spec.hidden * width)


def _moe(shape: shapes.Shape, path: str) -> Iterator[Matrix]:
    spec = shape.spec
    yield Matrix(f"{path}.gate", "router", spec.hidden * spec.experts)
    for name in ("w1", "w2", "w3") if shape.moe_name == "block_sparse_moe" else _GATED:
        yield Matrix(f"{path}.experts.0.{name}", "experts", spec.hidden * spec.expert_intermediate, spec.experts)
    if spec.shared_expert_intermediate:
        yield from _mlp(shape, f"{path}.shared_experts", "shared_experts", spec.shared_expert_intermediate)
