"""A model as numbers: its shape, and its weights by module and format. Never the weights themselves."""

from typing import Literal

from pydantic import Field

from overspan.schema.base import Frozen

Module = Literal[
    "attention", "mlp", "experts", "shared_experts", "router", "norm", "embedding", "lm_head", "mtp", "vision", "other"
]


class ModuleWeights(Frozen):
    """All weights of one kind of module in one format, over the whole model. `bytes` holds the scales too."""

    module: Module
    format: str
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Attention(Frozen):
    """The attention of one model. A layer is one of full, sliding, sparse (all kept, some read) or linear (no cache).

    `qk_norm`: `head` normalises each head by itself; `tensor` all heads together, which in TP costs an all-reduce.
    """

    kind: Literal["gqa", "mla"] = "gqa"
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    value_dim: int | None = Field(None, description="size of a value head where it differs from head_dim (MLA)")
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None
    rope_head_dim: int | None = None
    qk_norm: Literal["none", "head", "tensor"] = "none"
    full_layers: int = Field(ge=0)
    sliding_layers: int = 0
    window_tokens: int | None = None
    sparse_layers: int = 0
    sparse_read_tokens: int | None = Field(None, description="tokens of the cache that a step reads in a sparse layer")
    linear_layers: int = 0

    def cached_values(self) -> int:
        """Values kept in the cache for one token in one layer that has a cache."""
        if self.kind == "mla":
            return (self.kv_lora_rank or 0) + (self.rope_head_dim or 0)
        return 2 * self.kv_heads * self.head_dim


class Quantisation(Frozen):
    """How the checkpoint's weights are stored. `block` is (output, input) values that share one scale."""

    method: str
    format: str
    block: tuple[int, int] | None = None
    ignore: list[str] = Field(default_factory=list)
    kv_format: str | None = None


class ModelSpec(Frozen):
    """One model. Sizes are counted, from config.json or from the headers of the weights."""

    name: str
    source: str = ""
    ids: list[str] = Field(default_factory=list, description="Hugging Face ids that hold exactly this model")
    architecture: str
    dtype: str = "bf16"
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    vocab: int = Field(ge=1)
    tied_embeddings: bool = False
    max_context: int | None = None
    attention: Attention
    intermediate: int = Field(0, description="width of the feed-forward part of a dense layer")
    experts: int = Field(0, ge=0)
    experts_per_token: int = Field(0, ge=0)
    expert_intermediate: int = 0
    shared_expert_intermediate: int = 0
    moe_layers: int = Field(0, ge=0)
    mtp_layers: int = Field(0, ge=0)
    mtp_parameters: int = Field(0, ge=0, description="of the MTP layers that the config names; on top of `parameters`")
    mtp_bytes: int = Field(0, ge=0, description="their size; loaded only where they draft")
    quantisation: Quantisation | None = None
    modules: list[ModuleWeights]
    counted_from: Literal["config", "headers"] = "config"
    warnings: list[str] = Field(default_factory=list)
    assumed: list[str] = Field(default_factory=list, description="sizes that nothing tells")

    @property
    def parameters(self) -> int:
        """Parameters in all, MTP layers included where the checkpoint holds them."""
        return sum(module.parameters for module in self.modules)

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return sum(module.bytes for module in self.modules)

    def bytes_of(self, *modules: Module) -> int:
        """Size of the weights of some modules."""
        return sum(item.bytes for item in self.modules if item.module in modules)

    def parameters_of(self, *modules: Module) -> int:
        """Parameters of some modules."""
        return sum(item.parameters for item in self.modules if item.module in modules)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses, without the embedding, the head and MTP."""
        share = self.experts_per_token / self.experts if self.experts else 0.0
        dense = self.parameters_of("attention", "mlp", "shared_experts", "router", "norm", "other")
        return dense + round(self.parameters_of("experts") * share)

    def format_of(self, module: Module) -> str:
        """The format that most bytes of a module are in."""
        held = [item for item in self.modules if item.module == module]
        return max(held, key=lambda item: item.bytes).format if held else self.dtype

    def kv_bytes(self, tokens: int, value_bytes: float = 2.0) -> float:
        """Cache of one sequence of some tokens, all layers, in bytes."""
        attention = self.attention
        kept = (attention.full_layers + attention.sparse_layers) * tokens
        kept += attention.sliding_layers * min(tokens, attention.window_tokens or tokens)
        return kept * attention.cached_values() * value_bytes

    def kv_bytes_read(self, tokens: int, value_bytes: float = 2.0) -> float:
        """What one decode step reads of the cache of one sequence of some tokens, all layers, in bytes."""
        attention = self.attention
        read = attention.full_layers * tokens
        read += attention.sliding_layers * min(tokens, attention.window_tokens or tokens)
        read += attention.sparse_layers * min(tokens, attention.sparse_read_tokens or tokens)
        return read * attention.cached_values() * value_bytes
