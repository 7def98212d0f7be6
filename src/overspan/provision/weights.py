"""Is a model folder whole? Asked of config.json and of the headers of its safetensors files; no weight is loaded."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from overspan.catalog import headers
from overspan.schema.errors import ModelUnavailable
from overspan.schema.places import cache_dir

# Files up to this size are read whole for the digest: configuration and tokenizers, not weights.
_SMALL_BYTES = 64_000_000


def check_folder(folder: Path, *, drawn: bool = False) -> None:
    """Refuse a model folder that an engine could not load.

    Args:
        folder: of the model.
        drawn: the engine draws the weights itself: the configuration alone must be there.

    Raises:
        ModelUnavailable: names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder}: no such model folder", next="give a folder that has config.json and weights")
    read_object(folder / "config.json")
    if drawn:
        return
    if not list(folder.glob("*.safetensors")):
        raise ModelUnavailable(f"{folder}: no *.safetensors file, so no weights that an engine here can load")
    headers.read_folder(folder)


# Source: transformers and vLLM 0.32 (tokenizers/registry.py): fast, SentencePiece, BPE in two files, tiktoken, Mistral.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken", "tekken.json", "*.model")


def require_some_tokenizer(folder: Path, names: Iterable[str] | None = None) -> None:
    """Refuse a model folder that has no tokenizer of any kind: an engine would load every weight and then say so.

    Args:
        folder: of the model.
        names: of the files in it, where they are known.

    Raises:
        ModelUnavailable: names what was looked for.
    """
    held = list(names) if names is not None else [file.name for file in folder.iterdir()]
    if not any(fnmatch.filter(held, pattern) for pattern in _TOKENIZERS):
        raise ModelUnavailable(
            f"{folder}: no tokenizer (none of {', '.join(_TOKENIZERS)})",
            next="copy the tokenizer's files there, or name another with --set tokenizer=FOLDER_OR_ID",
        )


def check_tokenizer(folder: Path) -> None:
    """Refuse a converted model without a tokenizer.

    Raises:
        ModelUnavailable: there is none, or it is damaged.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        read_object(folder / name)


def read_object(file: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        ModelUnavailable: absent, unreadable, not JSON, or not an object; with line and column.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        _refuse(file, f"malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}")
    except UnicodeDecodeError:
        _refuse(file, "not UTF-8 text")
    except RecursionError:
        _refuse(file, "JSON that is nested too deep")
    except FileNotFoundError:
        _refuse(file, "missing")
    except OSError as error:
        _refuse(file, str(error.strerror))
    if not isinstance(value, dict):
        _refuse(file, f"should hold a JSON object, holds {type(value).__name__}")
    return value


def digest_of(folder: Path) -> str:
    """A digest of a whole model folder (see `check_folder`) that is the same wherever the same model lies.

    It covers each file's name and size, the content of each small file, and of each safetensors file its header (names,
    types, shapes and places of all tensors) and not the weights: hashing 126 GB at every start would cost minutes. So
    it tells one model from another, and does not prove that no weight was altered.
    """
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if not any(part.startswith(".") for part in name.split("/")):
            size = file.stat().st_size
            lines.append(f"{name} {size} {_content_digest(file, size)}")
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _content_digest(file: Path, size: int) -> str:
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            return hashlib.sha256(stream.read(min(length, headers.MAX_HEADER))).hexdigest()
    return hashlib.sha256(file.read_bytes()).hexdigest() if size <= _SMALL_BYTES else "-"


def without_symlinks(folder: Path) -> Path:
    """The folder itself where it holds no symbolic link, else a copy of it made of hard links: it costs no space on the
    same file system. Made once, under a temporary name, then renamed."""
    if not any(path.is_symlink() for path in folder.rglob("*")):
        return folder
    target = cache_dir() / "models" / f"solid-{folder.parent.parent.name}-{folder.name}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".solid-", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        shutil.copytree(folder, made, symlinks=False, copy_function=_link_or_copy)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody was quicker
                raise
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _refuse(file: Path, why: str) -> NoReturn:
    raise ModelUnavailable(f"{file}: {why}", next="fetch that file again, or name another model")
