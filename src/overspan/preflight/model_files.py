"""The model's files: the hub gives them, the cache may be written, none is missing or a stub, hosts have the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from overspan.catalog.headers import missing_files
from overspan.inventory.fact import Capture, Fact, Unreadable
from overspan.preflight.facts import (
    OVER_HOSTS,
    HostFacts,
    check,
    failed,
    group_check,
    not_asked,
    passed,
    side_by_side,
    unreadable,
)
from overspan.preflight.machine import has_model, model_folder
from overspan.provision import models
from overspan.provision.manifest import FolderManifest, differences, list_command, printable, read_manifest
from overspan.provision.weights import require_some_tokenizer
from overspan.schema.errors import HostUnreachable, ModelUnavailable, OverspanError
from overspan.schema.finding import Finding
from overspan.schema.units import count, gib

HUB: Final = "https://huggingface.co"
STUB_BYTES: Final = 1024
"""A Git LFS pointer holds less, and begins with `STUB_WORDS`. Source: git-lfs.com, specification."""
STUB_WORDS: Final = "version https://git-lfs"

_WAIT_S: Final = 10


def from_hub(host: HostFacts) -> bool:
    """Whether the model is known by its id on the hub alone, and not by a folder or as part of a package."""
    recipe = host.plan.recipe
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", recipe.model) is not None
    return is_id and recipe.package is None and model_folder(host) is None


@check("preflight.hub", when=from_hub, cost="one or two commands")
def gives_model(host: HostFacts) -> Finding:
    """The hub gives the model to this host and token. Or the host has it already.

    A warning and no more: what this host lacks, `up` brings from the machine that it is called on.
    """
    if has_model(host):
        return passed(None, "the model is in this host's cache")
    if host.setting("HF_HUB_OFFLINE"):
        cause = f"HF_HUB_OFFLINE is set, and {host.name} does not have {host.plan.recipe.model} in its cache"
        fix = host.paste("hf", "download", host.plan.recipe.model)
        return failed(None, cause, cause=cause, fix=fix, severity="warning")
    base = (host.setting("HF_ENDPOINT") or [HUB])[0].rstrip("/")
    url = f"{base}/{quote(host.plan.recipe.model)}/resolve/main/config.json"
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", str(_WAIT_S), "-I", "-K", "-", url]
    token = os.environ.get("HF_TOKEN", "")
    # The token goes over standard input, so that no list of processes shows it.
    header = f'header = "Authorization: Bearer {token}"\n' if re.fullmatch(r"[\w.-]+", token) else ""
    try:
        done = host.transport.run(argv, stdin=header.encode(), timeout_s=2 * _WAIT_S)
    except HostUnreachable:
        raise
    except OverspanError as error:
        return unreadable(Capture(fact="hub", argv=argv, missing=error.what), error.what)
    capture = Capture(fact="hub", argv=argv, code=done.code, stdout=done.stdout, stderr=done.stderr)
    return _answer(host, done.stdout.strip(), capture, bool(header))


def _answer(host: HostFacts, code: str, capture: Capture, with_token: bool) -> Finding:
    model = host.plan.recipe.model
    if code[:1] in {"2", "3"}:
        return passed(capture, f"the hub answers {code} for {model}")
    if code in {"401", "403"}:
        how = "with this HF_TOKEN" if with_token else "without a token"
        cause = f"the hub does not give {model} to {host.name} {how} ({code}): it is gated, private, or not there"
        fix = f"accept its terms at {HUB}/{model}; export HF_TOKEN=..."
        return failed(capture, code, cause=cause, fix=fix, severity="warning")
    if code == "404":
        cause = f"the hub has no model {model}"
        return failed(capture, code, cause=cause, fix="check the model id for a typo", severity="warning")
    said = capture.stderr.strip() or f"answer {code or 'none'}"
    cause = f"{host.name} does not reach the hub: {said}"
    if not host.entry.model_cache:
        return unreadable(capture, f"{cause}; whether a cache has the model is not known")
    fix = f"hf download {model} where there is a network: `up` copies it from there; or https_proxy in env"
    return failed(capture, said, cause=cause, fix=fix, severity="warning")


@check("preflight.cache", when=lambda host: not host.docker and bool(host.entry.model_cache))
def cache_writable(host: HostFacts) -> Finding:
    """The model cache may be written. Locks and references go there even where the model is complete."""
    folder = host.entry.model_cache or ""
    _, capture = host.look(Fact("cache", ["test", "-w", folder], str))
    if capture.code == 0:
        return passed(capture, f"{folder} may be written")
    if capture.code != 1:
        return unreadable(capture, capture.missing or capture.stderr.strip())
    cause = f"{folder} on {host.name} is not there, or may not be written by this user"
    return failed(capture, "test -w ended with 1", cause=cause, fix=host.paste("ls", "-ld", folder))


def parse_listing(text: str) -> dict[str, int]:
    """`ls -lnL`: the size of each file by its name."""
    found = {}
    for line in text.splitlines():
        cells = line.split(maxsplit=8)
        if len(cells) == 9 and cells[4].isdigit() and cells[0].startswith("-"):
            found[cells[8]] = int(cells[4])
        elif not line.startswith(("total", "d", "l")):
            raise Unreadable(line[:120])
    return found


@check("preflight.weights", when=lambda host: host.is_head and model_folder(host) is not None)
def whole_weights(host: HostFacts) -> Finding:
    """No weight file of the head is missing or a Git LFS pointer."""
    folder = model_folder(host)
    if folder is None:
        return not_asked("the model has no folder")
    seen, capture = host.read(Fact("weights", ["ls", "-lnL", "--", folder], parse_listing))
    weights = {name: size for name, size in seen.items() if name.endswith(".safetensors")}
    stubs = _stubs(host, folder, [name for name, size in weights.items() if size < STUB_BYTES])
    gaps = missing_files(weights)
    if weights and not stubs and not gaps:
        return _with_tokenizer(host, folder, capture, seen) or passed(
            capture, f"{count(len(weights), 'file')} of weights"
        )
    if not weights:
        return _without_weights(host, folder, capture)
    what = f"{stubs[0]} is a Git LFS pointer, not weights" if stubs else f"{gaps[0]} is missing"
    more = len(stubs) + len(gaps) - 1
    cause = f"in {folder} on {host.name} {what}" + (f", and {more} more" if more else "")
    return failed(capture, what, cause=cause, fix=host.paste("hf", "download", host.plan.recipe.model))


def _without_weights(host: HostFacts, folder: str, capture: Capture) -> Finding:
    """On this machine as staging sees it; what another host's engine can load is not known."""
    what = f"{folder} holds no *.safetensors"
    if host.plan.recipe.has_drawn_weights:
        return passed(capture, f"{what}: the engine draws the weights")
    if not host.is_here:
        return unreadable(capture, what)
    cause = f"{what}, so no weights that an engine here can load"
    return failed(capture, what, cause=cause, fix="give a folder that has config.json and weights")


def _with_tokenizer(host: HostFacts, folder: str, capture: Capture, names: Iterable[str]) -> Finding | None:
    """A failure where a tokenizer is wanted and none of any kind is there."""
    if not host.is_here or not models.wants_tokenizer(host.plan.recipe):
        return None
    try:
        require_some_tokenizer(Path(folder), names)
    except ModelUnavailable as error:
        return failed(capture, "no tokenizer", cause=error.what, fix=error.next)
    return None


def _stubs(host: HostFacts, folder: str, small: list[str]) -> list[str]:
    """Which of these are Git LFS pointers: a small file of weights may be whole, as a test's model is."""
    if not small:
        return []
    paths = {f"{folder.rstrip('/')}/{name}": name for name in small}
    seen, _ = host.look(Fact("stubs", ["grep", "-lsF", "-e", STUB_WORDS, "--", *paths], str.splitlines))
    return [paths[line] for line in seen.value or [] if line in paths]


NAMED: Final = 6
"""Files named in a message or a command; with more, the whole folder stands for them."""

_COMPARE_COST: Final = "one command; the first time each file is read once there, at some GB/s, and remembered"


@group_check("preflight.model", when=OVER_HOSTS, cost=_COMPARE_COST)
def same_files(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """Every host has the same model files. By content, against the first host which has the folder."""
    folder = model_folder(hosts[0])
    if folder is None:
        why = f"no folder is known for {hosts[0].plan.recipe.model}: each host takes it from the hub by its id"
        yield hosts[0].name, not_asked(why)
        return
    asked = side_by_side(hosts, lambda host: _manifest(host, folder))
    source = next(((host, found) for host, found in asked if isinstance(found, FolderManifest) and found.files), None)
    for host, found in asked:
        yield host.name, _compared(host, folder, found, source)


def _manifest(host: HostFacts, folder: str) -> FolderManifest | OverspanError:
    try:
        return read_manifest(host, folder)
    except HostUnreachable:
        raise
    except OverspanError as error:
        return error


def _compared(
    host: HostFacts, folder: str, found: FolderManifest | OverspanError, source: tuple[HostFacts, FolderManifest] | None
) -> Finding:
    command = list_command(folder)
    if isinstance(found, OverspanError):
        return unreadable(command, found.what, text=found.quote, fix=found.next)
    if source is None:
        cause = f"no host of the plan has model files in {folder}"
        fix = host.paste("hf", "download", host.plan.recipe.model)
        return failed(command, "no files", cause=cause, fix=fix)
    first, wanted = source
    other = [each for each in differences(wanted, found) if each.first is not None]
    if not other:
        return passed(command, f"{count(len(found.files), 'file')}, {gib(found.size)}")
    paths = [printable(each.path) for each in other]
    told = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    absent = sum(each.second is None for each in other)
    how = "are missing" if absent == len(other) else "differ or are missing" if absent else "differ"
    cause = f"model files on {host.name} {how}, compared with {first.name}: {told}; ranks would load two models"
    which = paths if len(paths) <= NAMED else ["."]
    pack = first.paste("tar", "-C", folder, "-cf", "-", "--", *which)
    unpack = host.paste("tar", "-C", folder, "-xf", "-")
    return failed(command, told, cause=cause, fix=f"{pack} | {unpack}")
