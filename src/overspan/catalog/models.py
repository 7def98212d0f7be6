"""Models: those whose numbers ship, and any folder of the user's own. Offline, and never a weight is read."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Final

from overspan.catalog import accounting, library
from overspan.schema.errors import InputError, ModelUnavailable, UnknownName
from overspan.schema.model import ModelSpec
from overspan.schema.reading import json_of, read_bytes
from overspan.schema.yamlio import plain

_FOLDER = "models"
_MAX_CONFIG: Final = 20_000_000


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
    found = folder_of(name)
    if found is not None:
        return _json(found / "config.json")
    spec = find(name)
    return dict(_stated(spec.name)["config"])


def folder_of(name: str) -> Path | None:
    """The folder on this machine that holds a model's config.json: its own, or one of the hub's cache."""
    folder = Path(name).expanduser()
    return folder if (folder / "config.json").is_file() else _hub_cache(name)


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
    from overspan.catalog import counted, headers  # only a folder's own files need them

    config = _json(folder / "config.json")
    sidecar = folder / "hf_quant_config.json"
    rules = _json(sidecar) if sidecar.is_file() else None
    tensors = headers.read_folder(folder) or (headers.kept(name) if name else [])
    called = name or folder.resolve().name
    return counted.count(called, config, tensors, rules) if tensors else accounting.count(called, config, sidecar=rules)


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json_of(read_bytes(file, _MAX_CONFIG))
    except InputError as error:
        raise ModelUnavailable(error.what, next=error.next) from None
    except OSError as error:
        raise ModelUnavailable(f"{file}: {error.strerror}") from None
    except ValueError as error:
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


def _stated(name: str) -> dict[str, Any]:
    """What the catalogue states of a model that ships."""
    return dict(plain(library.text_of(_FOLDER, name, "model")[0]))


@functools.cache
def _shipped(name: str) -> ModelSpec:
    data = _stated(name)
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
