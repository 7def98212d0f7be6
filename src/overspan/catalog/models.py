"""Models: those whose numbers ship, and any folder of the user's own. Offline, and never a weight is read."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Final

from overspan.catalog import accounting, headers, inferred, library
from overspan.schema.errors import ModelUnavailable, UnknownName
from overspan.schema.model import ModelSpec
from overspan.schema.yamlio import read_yaml

_FOLDER = "models"
_MAX_CONFIG: Final = 20_000_000
# Headers and config.json count the same thing; more than this apart and the folder is not what its config says.
_AGREE: Final = 0.02
# Integers of few bits are packed, and the config alone tells how many: sizes this far apart, and it tells wrong.
_FAR: Final = 0.2


def names() -> list[str]:
    """The models whose numbers ship."""
    return library.names(_FOLDER)


def find(name: str) -> ModelSpec:
    """A model by the name or Hugging Face id of one that ships, or by its folder.

    Raises:
        UnknownName: neither ships nor is a folder, with the nearest names.
        ModelUnavailable: the folder holds no sound model.
    """
    found = lookup(name)
    if found is not None:
        return found
    ids = [held for spec in (_shipped(known) for known in names()) for held in [spec.name, *spec.ids]]
    raise UnknownName("model", name, ids, next="give the model's folder (config.json and the headers are enough)")


def lookup(name: str) -> ModelSpec | None:
    """As `find`; None where the numbers of such a model are not at hand."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return from_folder(folder)
    if folder.is_dir():
        raise ModelUnavailable(f"{folder}: holds no config.json", next="is this the folder of a model?")
    for known in names():
        # A look at the text first: parsing all of them would take longer than everything else in a plan.
        if name.lower() in (known, *_ids(known)):
            return _shipped(known)
    cached = _hub_cache(name)
    return from_folder(cached, name) if cached else None


def checkpoint_of(name: str) -> str | None:
    """The Hugging Face id of a model that is named as its sizes ship; None where no such name ships.

    Raises:
        ModelUnavailable: the sizes ship for planning alone: no checkpoint of them is known.
    """
    if name.lower() not in names():
        return None
    text, _ = library.text_of(_FOLDER, name.lower(), "model")
    ids = _ids_line(text)
    if not ids:
        raise ModelUnavailable(
            f"the sizes of {name} ship, and no checkpoint of it is known that could be launched",
            next=f"overspan predict {name} answers without one; or give a Hugging Face id or a folder",
        )
    return ids[0]


def config_of(name: str) -> dict[str, Any]:
    """The config.json of a model: of its folder, of the hub's cache, or as far as the catalogue states it.

    Raises:
        UnknownName: neither ships nor is a folder, with the nearest names.
        ModelUnavailable: the folder holds no sound config.json.
    """
    folder = Path(name).expanduser()
    found = folder if (folder / "config.json").is_file() else _hub_cache(name)
    if found is not None:
        return _json(found / "config.json")
    spec = find(name)
    text, file = library.text_of(_FOLDER, spec.name, "model")
    data, _ = read_yaml(text, file)
    return dict(data["config"])


def from_folder(folder: Path, name: str | None = None) -> ModelSpec:
    """The model of a folder: counted from the headers of its weights where they are there, else from config.json.

    Raises:
        ModelUnavailable: no config.json, or a file is damaged, cut short or contradictory; names it.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix in (".json", ".safetensors"))
    stamp = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists())
    weights = any(file.suffix == ".safetensors" for file in files)
    return _read(folder, name, stamp) if weights else _read.__wrapped__(folder, name, stamp)


@functools.lru_cache(maxsize=4)
def _read(folder: Path, name: str | None, _stamp: tuple[tuple[str, int, int], ...]) -> ModelSpec:
    """As `from_folder`; asked several times in one command, and a large model has 90,000 tensors."""
    config = _json(folder / "config.json")
    sidecar = folder / "hf_quant_config.json"
    rules = _json(sidecar) if sidecar.is_file() else None
    called = name or folder.resolve().name
    tensors = headers.condensed(headers.read_folder(folder) or (headers.kept(name) if name else []))
    if not tensors:
        return accounting.count(called, config, sidecar=rules)
    full = inferred.complete(config, tensors)
    spec = accounting.count(called, full.config, sidecar=rules, with_headers=True)
    return _counted(spec, tensors, full)


def _counted(said: ModelSpec, tensors: list[headers.Tensor], full: inferred.CompletedConfig) -> ModelSpec:
    """The model as its headers hold it, with a warning for all that config.json says otherwise or not at all."""
    layers, experts = full.layers, full.experts if said.experts else None
    width = said.quantisation.format[3:4] if said.quantisation else ""
    packed = int(width) if width.isdigit() else 4
    if layers is None:
        modules = headers.by_module(tensors, lambda owner, _: headers.module_of(owner, said.layers), packed)
        counted = said.with_(modules=modules, counted_from="headers")
        return counted.with_(warnings=[*said.warnings, *_differences(said, counted)])
    _same_layers(said, layers)
    modules = headers.by_module(
        tensors, lambda owner, held: inferred.module_by_shape(owner, held, said, layers, experts), packed
    )
    held = {module.module for module in modules}
    counted = said.with_(
        modules=modules,
        counted_from="headers",
        moe_layers=len(experts.layers) if experts else said.moe_layers,
        tied_embeddings="lm_head" not in held if "embedding" in held else said.tied_embeddings,
        assumed=full.assumed,
    )
    told = [*said.warnings, *_unsaid(full), *_differences(said, counted), *_nameless(counted)]
    if layers.number > said.layers + said.mtp_layers:
        told.append(
            f"the headers hold {layers.number} layers, config.json says {said.layers}: the others are taken to draft"
        )
    return counted.with_(warnings=told)


def _unsaid(full: inferred.CompletedConfig) -> list[str]:
    """What config.json does not say: each size by its key, counted or assumed."""
    found = []
    if full.counted:
        found.append(f"unknown from config.json, counted in the headers of the weights: {', '.join(full.counted)}")
    if full.assumed:
        found.append(f"unknown from config.json and from the headers, so assumed: {', '.join(full.assumed)}")
    return found


def _nameless(counted: ModelSpec) -> list[str]:
    """Weights whose purpose nothing here knows."""
    size = counted.bytes_of("other")
    if size * 1000 <= counted.weight_bytes:
        return []
    return [f"unknown modules hold {size / 1e9:.2f} GB of the weights: counted as read in each step, split by TP"]


def from_config(name: str, config: dict[str, Any]) -> ModelSpec:
    """The model that a config.json describes; see `accounting.count`."""
    return accounting.count(name, config)


def _same_layers(said: ModelSpec, layers: inferred.Layers) -> None:
    """Refuse a folder whose weights have fewer layers than its config.json says: a part, or another model."""
    if layers.number < said.layers:
        raise ModelUnavailable(
            f"config.json: 'num_hidden_layers' is {said.layers}, the headers of the weights hold {layers.number}",
            next="download the model again: its files are of two models, or some are missing",
        )


def _differences(said: ModelSpec, counted: ModelSpec) -> list[str]:
    """Where config.json and the headers tell two stories.

    Raises:
        ModelUnavailable: the config names a quantisation and no weight is in it, or none and most weights are in one.
    """
    held = {module.format for module in counted.modules}
    rules = said.quantisation
    if rules and not held - {"bf16", "fp16", "fp32"}:
        raise ModelUnavailable(
            f"contradictory quantisation: config.json says {rules.format}, all weights are {', '.join(sorted(held))}",
            next="take quantization_config out of config.json, or give the quantised weights",
        )
    if rules and _kind(rules.format) not in {_kind(name) for name in held}:
        found = ", ".join(sorted(held - {"bf16", "fp16", "fp32"}))
        raise ModelUnavailable(
            f"contradictory quantisation: config.json says {rules.format}, the weights are {found}",
            next="put the config.json that belongs to these weights beside them",
        )
    plain = [module for module in counted.modules if module.module not in ("mtp", "vision")]
    packed = [module for module in plain if module.format not in {"bf16", "fp16", "fp32"}]
    if rules is None and 2 * sum(module.parameters for module in packed) > sum(module.parameters for module in plain):
        found = ", ".join(sorted({module.format for module in packed}))
        raise ModelUnavailable(
            f"contradictory quantisation: config.json has no quantization_config, most weights are {found}",
            next="put the quantization_config (or hf_quant_config.json) that belongs to these weights beside them",
        )
    here, there = sum(module.parameters for module in plain), said.parameters
    sure = not any(warning.startswith("unknown") for warning in said.warnings)
    if rules and rules.format.startswith("int") and sure and there and abs(here / there - 1) > _FAR:
        raise ModelUnavailable(
            f"contradictory quantisation: as {rules.format}, which config.json says, the headers would hold "
            f"{here / 1e9:.2f} B parameters; its sizes ask for {there / 1e9:.2f} B",
            next="bits or group_size of quantization_config is not that of these weights",
        )
    if there and abs(here / there - 1) > _AGREE:
        return [
            f"the headers hold {here / 1e9:.2f} B parameters, config.json asks for {there / 1e9:.2f} B: headers used"
        ]
    if rules and rules.block and rules.format.startswith("int") and rules.format.removesuffix("_zp") not in held:
        packed_as = ", ".join(sorted(held - {"bf16", "fp16", "fp32"}))
        return [f"config.json says {rules.format}, the weights are {packed_as}: headers used"]
    return []


def _kind(name: str) -> str:
    """What formats have in common whose names a config may mix up: FP8 with any scales, integers of one width."""
    return "fp8" if "fp8" in name else "fp4" if "fp4" in name else name.partition("_")[0]


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_CONFIG:
            raise ModelUnavailable(f"{file}: larger than {_MAX_CONFIG} bytes: no configuration")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnavailable(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{file}: not JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise ModelUnavailable(f"{file}: expected keys and values, found {type(data).__name__}")
    return data


@functools.cache
def _ids(name: str) -> list[str]:
    """The Hugging Face ids of a model that ships, in small letters, from the one line that holds them."""
    text, _ = library.text_of(_FOLDER, name, "model")
    return [item.lower() for item in _ids_line(text)]


def _ids_line(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("ids:"))
    return [item.strip() for item in line.removeprefix("ids:").strip(" []").split(",") if item.strip()]


@functools.cache
def _shipped(name: str) -> ModelSpec:
    text, file = library.text_of(_FOLDER, name, "model")
    data, _ = read_yaml(text, file)
    spec = accounting.count(name, data["config"])
    return spec.with_(source=data["source"], ids=data["ids"])


def is_hub_id(name: str) -> bool:
    """Whether a name has the shape of an id of the hub, OWNER/NAME, and is no folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and ".." not in name and not Path(name).exists()


def _hub_cache(name: str) -> Path | None:
    """The newest snapshot of a model in the cache of huggingface_hub, where it is there."""
    if name.count("/") != 1 or ".." in name:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    held = [item for item in snapshots.glob("*") if (item / "config.json").is_file()] if snapshots.is_dir() else []
    return max(held, key=lambda item: item.stat().st_mtime, default=None)
