"""Fetch a model from the hub: a process of its own, because a download thread cannot be interrupted and a process can.

    python -m overspan.provision.hub_child ID REVISION [sizes]     (REVISION may be empty)

It takes its token from the environment or the file that `hf auth login` wrote, and writes one JSON object a line:
{"say": text}, and at the end {"path", "revision"} or {"problem", ...}.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Weights in other formats, copies of the weights, and what no engine here reads.
_NEVER = ("*.bin", "*.pth", "*.pt", "*.onnx", "*.gguf", "*.h5", "*.msgpack", "original/*", "onnx/*", "consolidated*")
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "tokenizer*", "*.py")


_AT_ONCE = 8
"""Headers that are asked for at a time: large models have hundreds of files."""


def wanted(names: Iterable[str]) -> list[str]:
    """The files of a repository that an engine needs; `consolidated*` only where there are no other weights."""
    kept = [name for name in names if _like(name, _WANTED) and not _like(name, _NEVER)]
    if not any(name.endswith(".safetensors") for name in kept):
        kept += [name for name in names if name.endswith(".safetensors")]
    return kept


def _like(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def tell(**content: Any) -> None:
    """Write one line to the parent."""
    print(json.dumps(content), flush=True)


def _listed(api: HfApi, model: str, revision: str | None) -> tuple[str | None, dict[str, int]]:
    """The commit that a revision means now, and the size of each file in it."""
    from huggingface_hub.hf_api import RepoFile

    sha = api.model_info(model, revision=revision).sha
    entries = api.list_repo_tree(model, recursive=True, revision=sha)
    return sha, {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def fetch(model: str, revision: str | None) -> None:
    """Fetch what is not there, and tell where it is."""
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

    from overspan.provision import space
    from overspan.schema.errors import ModelUnavailable
    from overspan.schema.units import count

    sha, sizes = _listed(HfApi(), model, revision)
    names = wanted(sizes)
    absent = [name for name in names if not isinstance(try_to_load_from_cache(model, name, revision=sha), str)]
    needed = sum(sizes[name] for name in absent)
    folder = Path(constants.HF_HUB_CACHE).expanduser()
    try:
        space.require(folder, needed, f"model {model}", error=ModelUnavailable, move="HF_HOME")
    except ModelUnavailable as error:
        return tell(problem="space", what=error.what, next=error.next)
    if needed:
        tell(say=f"fetching {model}: {count(len(absent), 'file')}, {space.size(needed)}, to {folder}")
    # By the name that was asked for, so that the cache keeps what it means for when the hub is away.
    path = snapshot_download(model, revision=revision, allow_patterns=names)
    return tell(path=path, revision=Path(path).name)


def fetch_sizes(model: str, revision: str | None) -> None:
    """Fetch what tells a model's sizes, config.json and the headers of its weights, and keep it; no weight is read."""
    from huggingface_hub import HfApi, hf_hub_download

    from overspan.catalog import headers

    api = HfApi()
    sha, sizes = _listed(api, model, revision)
    for name in headers.CONFIGS:
        if name in sizes:
            hf_hub_download(model, name, revision=revision)
    names = [name for name in wanted(sizes) if name.endswith(".safetensors")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = list(pool.map(lambda name: api.parse_safetensors_file_metadata(model, name, revision=sha), names))
    found = [item for file in read for item in file.tensors.items()]
    tensors = [
        headers.Tensor(name, each.dtype, tuple(each.shape), each.data_offsets[1] - each.data_offsets[0])
        for name, each in found
    ]
    headers.keep(model, tensors)
    tell(path=model, revision=sha)


def main(model: str, revision: str | None, *, sizes: bool = False) -> None:
    """Fetch, and tell a failure in words that the parent knows."""
    from huggingface_hub import errors, snapshot_download

    # The base of what its HTTP client raises; the client's name changed from one version of it to another.
    network: type[Exception] = vars(errors)["HTTPError"]
    try:
        (fetch_sizes if sizes else fetch)(model, revision)
    except errors.GatedRepoError:
        tell(problem="gated")
    except errors.RevisionNotFoundError:
        tell(problem="revision")
    except errors.RepositoryNotFoundError as error:
        tell(problem="absent" if error.response.status_code == 404 else "denied")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        tell(problem="denied" if status in (401, 403) else "http", detail=_first_line(error))
    except (errors.HFValidationError, errors.HfUriError) as error:
        tell(problem="id", detail=_first_line(error))
    except (network, OSError) as error:
        detail = f"{type(error).__name__}: {_first_line(error)}"
        if sizes:
            return tell(problem="offline", detail=detail)
        want, never = list(_WANTED), list(_NEVER)
        try:
            path = snapshot_download(
                model, revision=revision, local_files_only=True, allow_patterns=want, ignore_patterns=never
            )
        except OSError:
            return tell(problem="offline", detail=detail)
        tell(path=path, revision=Path(path).name)  # the cache names the folder by its commit
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] or None, sizes=sys.argv[3:] == ["sizes"])
