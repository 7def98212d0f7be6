"""What a Slurm's nodes share: images imported once, and weights that are whole before a job is queued."""

from __future__ import annotations

import re
from typing import Final

from overspan.catalog.headers import INDEX, files_of_index, missing_files
from overspan.schema.errors import InputError, ModelUnavailable
from overspan.store.locks import Say
from overspan.transport.base import Transport

QUERY_TIMEOUT_S: Final = 60.0

IMPORT_TIMEOUT_S: Final = 3 * 3600.0
"""An image of 20 GB is fetched and packed in about half an hour; others may be waited for as well."""

_IMPORT: Final = """\
set -e
whole() { # magic and length of a squashfs 4.0 superblock
  [ -s "$1" ] && [ "$(head -c 4 -- "$1")" = hsqs ] || return 1
  used=$(od -An -t u8 -j 40 -N 8 -- "$1" | tr -d ' ')
  [ "$used" -gt 0 ] && [ "$(stat -L -c %s -- "$1")" -ge "$used" ]
}
mkdir -p -- "$(dirname -- "$2")"
exec 9>"$2.lock"; flock 9
if whole "$2"; then echo present; exit 0; fi
rm -rf -- "$2" "$2".partial.*
enroot import --output "$2.partial.$$" "$1" 9>&- >&2
if ! whole "$2.partial.$$"; then echo "enroot import left no whole image" >&2; exit 1; fi
mv -- "$2.partial.$$" "$2"
echo imported
"""
"""Imports an image to a temporary name, checks it and renames it, under a lock that ends with its holder. What a killed
import left is removed by the next. Source of the check: the squashfs 4.0 superblock, magic at 0 and bytes_used at 40
(kernel, fs/squashfs/squashfs_fs.h)."""

_WEIGHTS: Final = """\
cd -- "$1" || exit 1
find -L . -maxdepth 1 -type f -printf '%f\\n' && echo && cat -- model.safetensors.index.json 2>/dev/null
[ -f config.json ]
"""


def enroot_uri(image: str) -> str:
    """An image's name as `enroot import` wants it: `#` between the registry and the path.

    With `/` there, enroot takes the registry for a part of a path on Docker Hub and is refused
    (SemiAnalysisAI/InferenceX pull 1734).

    >>> enroot_uri("nvcr.io/nvidia/vllm:26.01")
    'docker://nvcr.io#nvidia/vllm:26.01'
    >>> enroot_uri("vllm/vllm-openai:v0.32.0")
    'docker://vllm/vllm-openai:v0.32.0'
    """
    name = image.removeprefix("docker://")
    first, slash, rest = name.partition("/")
    is_registry = bool(slash) and "#" not in name and ("." in first or ":" in first or first == "localhost")
    return f"docker://{first}#{rest}" if is_registry else f"docker://{name}"


def image_file(image: str, folder: str) -> str:
    """The file that holds an imported image; different names never share one."""
    name = image.removeprefix("docker://").replace("#", "/")
    return f"{folder}/{re.sub(r'[^A-Za-z0-9.-]', lambda found: f'_{ord(found[0]):x}_', name)}.sqsh"


def import_image(login: Transport, image: str, folder: str, say: Say) -> str:
    """The imported image on shared storage, imported now where it is not there. Any number may ask at once.

    Raises:
        InputError: a file was named that is not there.
        OverspanError: the import failed; quotes enroot.
    """
    if image.startswith("/"):
        if login.run(["test", "-s", image], timeout_s=QUERY_TIMEOUT_S).code != 0:
            raise InputError(f"image {image} is not on the login node", next="name it in `images` of the inventory")
        return image
    target = image_file(image, folder)
    say(f"importing image {image} to {target}, unless it is there")
    argv = ["sh", "-c", _IMPORT, "sh", enroot_uri(image), target]
    done = login.run(argv, timeout_s=IMPORT_TIMEOUT_S).check(f"importing image {image}")
    say(f"image {image}: {done.stdout.strip()}")
    return target


def check_weights(login: Transport, path: str) -> None:
    """Whether a model's folder on shared storage is whole, as far as its own list of files tells.

    Raises:
        ModelUnavailable: it is not; names what is missing.
    """
    done = login.run(["sh", "-c", _WEIGHTS, "sh", path], timeout_s=QUERY_TIMEOUT_S)
    hint = "name the folder on shared storage: `models` of the inventory, model id -> folder"
    if done.code != 0:
        raise ModelUnavailable(
            f"the model's folder {path} is not on the login node, or has no config.json",
            quote=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else None,
            next=hint,
        )
    listed, _, index = done.stdout.partition("\n\n")
    names = set(listed.splitlines())
    wanted = files_of_index(index, f"{path}/{INDEX}") if index.strip() else None
    if missing := missing_files(names, wanted):
        of = f" of {len(wanted)}" if wanted else ""
        raise ModelUnavailable(
            f"{len(missing)}{of} weight files are missing in {path}: {', '.join(missing[:3])}", next=hint
        )
    if not any(name.endswith((".safetensors", ".bin", ".gguf")) for name in names):
        raise ModelUnavailable(f"there are no weights in {path}", next=hint)
