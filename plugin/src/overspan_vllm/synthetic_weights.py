"""`--load-format synthetic`: weights of the right formats are drawn on the device; no checkpoint is read.

vLLM's own `dummy` format leaves packed integers as they are in memory and draws all else within 0.001: the router then
scores all experts alike, and few of them get every token. Here a signal keeps its size from layer to layer, so that
routing spreads over the experts as in a trained model, and a step reads what a real step reads.
"""

from __future__ import annotations

import math
import zlib
from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend

FORMAT = "synthetic"
E2M1_RMS = 2.9262
"""Of E2M1 values whose four bits are all drawn alike: sqrt((0 + 0.25 + 1 + 2.25 + 4 + 9 + 16 + 36) / 8)."""
_E4M3_RMS = 96.6
"""Of block scales between 64 and 128: the upper half of what E4M3 holds, as checkpoints scale them."""
_INPUT_SCALE = 2.0**-9
_KEPT = ("k_scale", "v_scale", "q_scale", "prob_scale")
"""vLLM sets these itself, and reads from their first value whether a checkpoint brought them."""


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

    with torch.no_grad():
        for owner, layer in model.named_modules():
            held = dict(layer.named_parameters(recurse=False))
            for name, value in held.items():
                if name.rpartition(".")[2] in _KEPT or value.device.type == "meta" or not value.numel():
                    continue
                _draw(torch, f"{owner}.{name}", name, value.data, held)


def _draw(torch: Any, path: str, name: str, value: Any, held: dict[str, Any]) -> None:
    generator = torch.Generator(device=value.device)
    generator.manual_seed(zlib.crc32(path.encode()) + _rank(name))
    wide = value.element_size() > 1 and value.is_floating_point()
    if "scale" in name:
        _draw_scale(torch, name, value, held, generator)
    elif not value.is_floating_point():
        # Packed weights, whatever their format: every bit pattern is a value.
        value.view(torch.uint8).random_(0, 256, generator=generator)
    elif "bias" in name:
        value.normal_(0, 0.01, generator=generator)
    elif value.dim() == 1:
        value.normal_(1, 0.1, generator=generator)
    elif "embed" in path:
        value.normal_(0, 1, generator=generator)
    elif wide:
        value.normal_(0, 1 / math.sqrt(value.shape[-1]), generator=generator)
    else:
        for part in value.view(-1, *value.shape[-2:]):
            drawn = torch.empty_like(part, dtype=torch.float16).normal_(0, 64, generator=generator)
            part.copy_(drawn.clamp_(-448, 448))


def _draw_scale(torch: Any, name: str, value: Any, held: dict[str, Any], generator: Any) -> None:
    """Scales with which the weights that they belong to keep a signal's size."""
    stems = {other.removesuffix("_packed"): other for other in held}
    packed = next((held[stems[stem]] for stem in stems if stem.endswith("weight") and name.startswith(stem)), None)
    inputs = packed.shape[-1] if packed is not None else 1
    if "input" in name:
        value.fill_(1 / _INPUT_SCALE if "global" in name else _INPUT_SCALE)
    elif value.element_size() > 1 and packed is not None and packed.element_size() == 1 and _is_integer(torch, packed):
        # The one scale of an NVFP4 matrix; compressed-tensors keeps its reciprocal.
        size = 1 / (E2M1_RMS * _E4M3_RMS * math.sqrt(2 * inputs))
        value.fill_(1 / size if "global" in name else size)
    elif value.dtype == torch.uint8:
        value.fill_(127 - 6 - round(math.log2(math.sqrt(inputs))))  # E8M0, over E4M3 values of 64
    elif value.element_size() == 1:
        for part in value.view(-1, *value.shape[-2:]):
            part.copy_(torch.empty_like(part, dtype=torch.float16).uniform_(64, 128, generator=generator))
    else:
        value.fill_(1 / (64 * math.sqrt(inputs)))


def _is_integer(torch: Any, value: Any) -> bool:
    return not value.is_floating_point() and value.dtype == torch.uint8


def _rank(name: str) -> int:
    """Experts differ from rank to rank; routers, norms and heads must be the same on all."""
    if not name.startswith(("w13_", "w2_")):
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
)
