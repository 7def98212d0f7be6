"""`--load-format synthetic`: weights of the right formats are drawn on the device; no checkpoint is read.

vLLM's own `dummy` format leaves packed integers as they are in memory and draws all else within 0.001: the router then
scores all experts alike, and few of them get every token. Here a signal keeps its size from layer to layer, so that
routing spreads over the experts as in a trained model, and a step reads what a real step reads.

No architecture is named here. What to draw follows from what the model's own class made in vLLM: the parameter's type
and name, and the layer that holds it. A weight has a variance of one over the inputs of its layer, in whatever format.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from types import ModuleType
from typing import Any, NamedTuple

from overspan_vllm.mend import Mend

FORMAT = "synthetic"
_RMS = {"float8": 64.0, "int8": 73.9, "e2m1": 2.9262, "int4": 4.63}
"""Of stored weights as they are drawn here: E4M3 by a normal distribution, all others by bits that are all alike. Of
E2M1 sqrt((0 + 0.25 + 1 + 2.25 + 4 + 9 + 16 + 36) / 8), of n bits around their middle sqrt((4^n + 2) / 12)."""
_E4M3_RMS = 96.6
"""Of block scales between 64 and 128: the upper half of what E4M3 holds, as checkpoints scale them."""
_INPUT_SCALE = 2.0**-9
_MIDDLE = 0x88  # a zero point in the middle: 8 of 4 bits, near it of 8
_KEPT = ("k_scale", "v_scale", "q_scale", "prob_scale")
"""vLLM sets these itself, and reads from their first value whether a checkpoint brought them."""
_STATE = {"A_log": lambda value: value.log_(), "A": lambda value: value.neg_()}
"""How state-space layers hold a decay of 1 to 16 (Mamba's own initialisation, arXiv 2312.00752); `A` above zero grows
without end."""


class _Place(NamedTuple):
    """One parameter and where it is: the path of its layer, its name, the layer, and all that the layer holds."""

    path: str
    name: str
    layer: Any
    held: dict[str, Any]

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    @property
    def embeds(self) -> bool:
        """Whether it is a table of vectors; a head, which is a product, has another class."""
        return "embed" in self.kind.lower() or "embed" in self.path

    @property
    def group(self) -> str:
        """Experts hold two matrices under one roof."""
        return next((prefix for prefix in ("w13_", "w2_") if self.name.startswith(prefix)), "")

    @property
    def weight(self) -> Any:
        """The weight that a scale belongs to; None where the layer has none."""
        names = (f"{self.group}{stem}" for stem in ("weight", "qweight", "weight_packed"))
        return next((self.held[name] for name in names if name in self.held), None)

    def inputs(self, value: Any) -> int:
        """How many numbers one output of a matrix adds up."""
        fields = {"w13_": ("hidden_size",), "w2_": ("intermediate_size_per_partition",)}
        for field in fields.get(self.group, ("input_size_per_partition", "input_size")):
            if isinstance(held := getattr(self.layer, field, None), int) and held > 0:
                return held
        if "conv" in self.kind.lower() or value.dim() > 3:
            return max(1, value.numel() // value.shape[0])
        # Two of four bits are in a byte.
        return int(value.shape[-1]) * (2 if str(value.dtype) == "torch.uint8" else 1)


def _fits(module: ModuleType) -> bool:
    base = getattr(module, "BaseModelLoader", None)
    needed = (getattr(base, "download_model", None), getattr(base, "load_weights", None))
    return all(map(callable, (*needed, getattr(module, "register_model_loader", None))))


def _cure(module: ModuleType) -> None:
    class SyntheticLoader(module.BaseModelLoader):  # type: ignore[name-defined, misc]
        """Fills a model that vLLM has built, in place of reading a checkpoint."""

        def download_model(self, model_config: Any) -> None:
            """Nothing to download."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            """Draw every parameter."""
            fill(model)

    module.register_model_loader(FORMAT)(SyntheticLoader)


def fill(model: Any) -> None:
    """Draw the parameters of a model where they lie. What all ranks hold alike is drawn alike.

    Args:
        model: a torch module that holds unprocessed weights, as a checkpoint would have filled them.
    """
    import torch

    places: dict[int, list[tuple[_Place, Any]]] = {}
    holders = Counter(id(child) for layer in model.modules() for child in layer.children())
    for owner, layer in model.named_modules():
        held = dict(layer.named_parameters(recurse=False))
        for name, value in held.items():
            if name.rpartition(".")[2] not in _KEPT and value.device.type != "meta" and value.numel():
                places.setdefault(id(value), []).append((_Place(f"{owner}.{name}", name, layer, held), value.data))
    with torch.no_grad():
        for (place, value), *again in places.values():
            generator = torch.Generator(device=value.device)
            generator.manual_seed(zlib.crc32(place.path.encode()) + _rank(place))
            _draw(torch, place, value, generator)
            if place.embeds and (again or holders[id(place.layer)] > 1):
                value.mul_(1 / math.sqrt(value.shape[-1]))  # the head reads it too: it is drawn as a head is


def _draw(torch: Any, place: _Place, value: Any, generator: Any) -> None:
    name = place.name
    if "zero" in name or not value.is_floating_point():
        _draw_integers(torch, place, value, generator)
    elif "scale" in name:
        _draw_scale(torch, place, value, generator)
    elif name in _STATE:
        _STATE[name](value.uniform_(1, 16, generator=generator))
    elif name == "dt_bias":
        value.uniform_(-7, -2, generator=generator)  # of the softplus: steps of 0.001 to 0.1, from the same source
    elif "bias" in name or "sink" in name:
        value.normal_(0, 0.01, generator=generator)
    elif "norm" in place.kind.lower():
        _draw_norm(torch, place, value, generator)
    elif value.dim() < 2:
        value.normal_(1, 0.1, generator=generator)
    else:
        _draw_matrix(torch, place, value, generator)


def _draw_norm(torch: Any, place: _Place, value: Any, generator: Any) -> None:
    # With signs: where head and embedding are one, the last token would else be the next one again and again.
    value.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    value.mul_(torch.empty_like(value).normal_(1, 0.1, generator=generator))
    value.sub_(1 if "gemma" in place.kind.lower() else 0)  # Gemma's norms add one


def _draw_matrix(torch: Any, place: _Place, value: Any, generator: Any) -> None:
    if place.embeds:
        value.normal_(0, 1, generator=generator)
    elif value.element_size() > 1:
        value.normal_(0, 1 / math.sqrt(place.inputs(value)), generator=generator)
    elif "float4" in str(value.dtype):
        value.view(torch.uint8).random_(0, 256, generator=generator)
    else:
        for part in value.view(-1, *value.shape[-2:]):
            drawn = torch.empty_like(part, dtype=torch.float16).normal_(0, _RMS["float8"], generator=generator)
            part.copy_(drawn.clamp_(-448, 448))


def _draw_integers(torch: Any, place: _Place, value: Any, generator: Any) -> None:
    """Packed weights, whatever their format: every bit pattern is a value. What counts or points stays in its range."""
    name = place.name
    if "scale" in name:
        _draw_scale(torch, place, value, generator)
    elif "zero" in name:
        packed = value.dim() > 1 and value.dtype in (torch.uint8, torch.int32)
        if packed:
            value.view(torch.uint8).fill_(_MIDDLE)
        else:
            value.zero_()
    elif "idx" in name or "shape" in name:
        if place.group:  # of a matrix alone vLLM has set them
            value.zero_()
    elif "weight" in name and value.dim() > 1:
        value.view(torch.uint8).random_(0, 256, generator=generator)
    elif value.dim() > 1:
        # A table of experts by token: each row names different ones.
        many = place.weight.shape[0] if place.weight is not None else value.shape[-1]
        value.copy_((torch.arange(value.numel(), device=value.device) % many).view(value.shape))
    else:
        value.zero_()


def _draw_scale(torch: Any, place: _Place, value: Any, generator: Any) -> None:
    """Scales with which the weights that they belong to keep a signal's size."""
    name, weight, dtype = place.name, place.weight, str(value.dtype)
    if "input" in name or "act_" in name:
        value.fill_(1 / _INPUT_SCALE if "global" in name else _INPUT_SCALE)
        return
    if weight is None or (weight.is_floating_point() and weight.element_size() > 1):
        value.normal_(1, 0.1, generator=generator)  # of no stored format: it scales a layer's output
        return
    blocks = [held for other, held in place.held.items() if "scale" in other and other.startswith(place.group)]
    blocks = [held for held in blocks if held.element_size() == 1]
    size = 1 / (_RMS[_format(weight, scaled_in_bytes=bool(blocks))] * math.sqrt(place.inputs(weight)))
    if dtype in ("torch.uint8", "torch.float8_e8m0fnu"):
        value.view(torch.uint8).fill_(min(254, max(1, 127 + round(math.log2(size)))))  # E8M0: a power of two
    elif value.element_size() == 1:
        for part in value.view(-1, *value.shape[-2:]):
            part.copy_(torch.empty_like(part, dtype=torch.float16).uniform_(64, 128, generator=generator))
    elif any("e4m3" in str(held.dtype) for held in blocks):
        # The one scale of an NVFP4 matrix; compressed-tensors keeps its reciprocal.
        size /= _E4M3_RMS
        value.fill_(1 / size if "global" in name else size)
    else:
        value.fill_(size)


def _format(weight: Any, *, scaled_in_bytes: bool) -> str:
    """What a stored weight's bits mean."""
    dtype = str(weight.dtype)
    if "float4" in dtype or (dtype == "torch.uint8" and scaled_in_bytes):
        return "e2m1"
    if weight.is_floating_point():
        return "float8"
    return "int8" if dtype == "torch.int8" else "int4"


def _rank(place: _Place) -> int:
    """Experts differ from rank to rank; routers, norms and heads must be the same on all."""
    if not place.group:
        return 0
    import torch.distributed as dist

    return int(dist.get_rank()) + 1 if dist.is_initialized() else 1


MEND = Mend(
    name="the load format 'synthetic'",
    versions=("0.26", "0.32"),
    module="vllm.model_executor.model_loader",
    cure=_cure,
    cpu_only=False,
    done="added",
    fits=_fits,
)
