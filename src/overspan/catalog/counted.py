"""A model counted from the headers of its weights: what its config.json leaves out, and where the two disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from overspan.catalog import accounting
from overspan.catalog.headers import Tensor, by_module, condensed, module_of
from overspan.catalog.inferred import CompletedConfig, complete, module_by_shape
from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import ModelSpec

# Headers and config.json count the same thing; more than this apart and the folder is not what its config says.
_AGREE: Final = 0.02
# Integers of few bits are packed, and the config alone tells how many: sizes this far apart, and it tells wrong.
_FAR: Final = 0.2
_PLAIN: Final = frozenset({"bf16", "fp16", "fp32"})


def count(
    name: str, config: Mapping[str, Any], stored: Iterable[Tensor], sidecar: Mapping[str, Any] | None
) -> ModelSpec:
    """The model that a config.json and the headers of its weights describe together.

    Args:
        name: what to call it.
        config: the parsed config.json.
        stored: every tensor of the checkpoint.
        sidecar: the parsed hf_quant_config.json, where there is one.

    Raises:
        ModelUnavailable: the two contradict each other, or one is not sound.
    """
    tensors = condensed(stored)
    full = complete(config, tensors)
    return _counted(accounting.count(name, full.config, sidecar=sidecar, with_headers=True), tensors, full)


def _counted(said: ModelSpec, tensors: list[Tensor], full: CompletedConfig) -> ModelSpec:
    """The model as its headers hold it, with a warning for all that config.json says otherwise or not at all."""
    layers, experts = full.layers, full.experts if said.experts else None
    width = said.quantisation.format[3:4] if said.quantisation else ""
    packed = int(width) if width.isdigit() else 4
    if layers is None:
        modules = by_module(tensors, lambda owner, _: module_of(owner, said.layers), packed)
        counted = said.with_(modules=modules, counted_from="headers")
        return counted.with_(warnings=[*said.warnings, *_differences(said, counted)])
    if layers.number < said.layers:  # a part of a model, or another one
        raise ModelUnavailable(
            f"config.json: 'num_hidden_layers' is {said.layers}, the headers of the weights hold {layers.number}",
            next="download the model again: its files are of two models, or some are missing",
        )
    modules = by_module(tensors, lambda owner, held: module_by_shape(owner, held, said, layers, experts), packed)
    held = {module.module for module in modules}
    counted = said.with_(
        modules=modules,
        counted_from="headers",
        moe_layers=len(experts.layers) if experts else said.moe_layers,
        tied_embeddings="lm_head" not in held if "embedding" in held else said.tied_embeddings,
        assumed=full.assumed,
    )
    told = [*said.warnings, *_unsaid(full), *_differences(said, counted)]
    nameless = counted.bytes_of("other")
    if nameless * 1000 > counted.weight_bytes:
        size = f"{nameless / 1e9:.2f} GB"
        told.append(f"unknown modules hold {size} of the weights: counted as read in each step, split by TP")
    if layers.number > said.layers + said.mtp_layers:
        told.append(
            f"the headers hold {layers.number} layers, config.json says {said.layers}: the others are taken to draft"
        )
    return counted.with_(warnings=told)


def _unsaid(full: CompletedConfig) -> list[str]:
    """What config.json does not say: each size by its key, counted or assumed."""
    found = []
    if full.counted:
        found.append(f"unknown from config.json, counted in the headers of the weights: {', '.join(full.counted)}")
    if full.assumed:
        found.append(f"unknown from config.json and from the headers, so assumed: {', '.join(full.assumed)}")
    return found


def _differences(said: ModelSpec, counted: ModelSpec) -> list[str]:
    """Where config.json and the headers tell two stories.

    Raises:
        ModelUnavailable: the config names a quantisation and no weight is in it, or none and most weights are in one.
    """
    held = {module.format for module in counted.modules}
    rules, stored = said.quantisation, ", ".join(sorted(held - _PLAIN))
    weights = [module for module in counted.modules if module.module not in ("mtp", "vision")]
    packed = [module for module in weights if module.format not in _PLAIN]
    here, there = sum(module.parameters for module in weights), said.parameters
    sizes = f"{here / 1e9:.2f} B parameters", f"{there / 1e9:.2f} B"
    far = abs(here / there - 1) if there else 0.0
    integers = rules is not None and rules.format.startswith("int")
    sure = not any(warning.startswith("unknown") for warning in said.warnings)
    if rules is None and 2 * sum(module.parameters for module in packed) > here:
        mixed = ", ".join(sorted({module.format for module in packed}))
        raise _contradiction(
            f"config.json has no quantization_config, most weights are {mixed}",
            "put the quantization_config (or hf_quant_config.json) that belongs to these weights beside them",
        )
    if rules and not stored:
        raise _contradiction(
            f"config.json says {rules.format}, all weights are {', '.join(sorted(held))}",
            "take quantization_config out of config.json, or give the quantised weights",
        )
    if rules and _kind(rules.format) not in {_kind(name) for name in held}:
        raise _contradiction(
            f"config.json says {rules.format}, the weights are {stored}",
            "put the config.json that belongs to these weights beside them",
        )
    if rules and integers and sure and far > _FAR:
        raise _contradiction(
            f"as {rules.format}, which config.json says, the headers would hold {sizes[0]}; "
            f"its sizes ask for {sizes[1]}",
            "bits or group_size of quantization_config is not that of these weights",
        )
    if far > _AGREE:
        return [f"the headers hold {sizes[0]}, config.json asks for {sizes[1]}: headers used"]
    if rules and rules.block and integers and rules.format.removesuffix("_zp") not in held:
        return [f"config.json says {rules.format}, the weights are {stored}: headers used"]
    return []


def _contradiction(what: str, instead: str) -> ModelUnavailable:
    return ModelUnavailable(f"contradictory quantisation: {what}", next=instead)


def _kind(name: str) -> str:
    """What formats have in common whose names a config may mix up: FP8 with any scales, integers of one width."""
    return "fp8" if "fp8" in name else "fp4" if "fp4" in name else name.partition("_")[0]
