"""Where the model comes from: the hub answers and gives it, the cache may be written, no weight file is a stub."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import quote

from overspan.inventory.fact import Capture, Fact, Unreadable
from overspan.preflight.machine import has_model, model_folder
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold
from overspan.schema.errors import HostUnreachable, OverspanError

HUB: Final = "https://huggingface.co"
STUB_BYTES: Final = 1024
"""A Git LFS pointer holds less, and begins with `STUB_WORDS`. Source: git-lfs.com, specification."""
STUB_WORDS: Final = "version https://git-lfs"

_WAIT_S: Final = 10


def from_hub(site: Site) -> bool:
    """Whether the model is known by its id on the hub alone, and not by a folder or as part of a package."""
    recipe = site.plan.recipe
    if recipe.package is not None:
        return False
    return model_folder(site) is None and re.fullmatch(r"[\w.-]+/[\w.-]+", recipe.model) is not None


def gives_model(site: Site) -> list[Verdict]:
    """The hub gives this model to this host with this token; or the host has it already.

    A warning and no more: what this host lacks, `up` brings from the machine that it is called on.
    """
    if has_model(site):
        return [Verdict("passed", "the model is in this host's cache", severity="info")]
    if site.setting("HF_HUB_OFFLINE"):
        cause = f"HF_HUB_OFFLINE is set, and {site.name} does not have {site.plan.recipe.model} in its cache"
        fix = site.paste("hf", "download", site.plan.recipe.model)
        return [Verdict("failed", cause, None, cause, fix, severity="warning")]
    base = (site.setting("HF_ENDPOINT") or [HUB])[0].rstrip("/")
    url = f"{base}/{quote(site.plan.recipe.model)}/resolve/main/config.json"
    argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", str(_WAIT_S), "-I", "-K", "-", url]
    token = os.environ.get("HF_TOKEN", "")
    # The token goes over standard input, so that no list of processes shows it.
    header = f'header = "Authorization: Bearer {token}"\n' if re.fullmatch(r"[\w.-]+", token) else ""
    try:
        done = site.transport.run(argv, stdin=header.encode(), timeout_s=2 * _WAIT_S)
    except HostUnreachable:
        raise
    except OverspanError as error:
        return [unknown(Capture(fact="hub", argv=argv, missing=error.what), error.what)]
    capture = Capture(fact="hub", argv=argv, code=done.code, stdout=done.stdout, stderr=done.stderr)
    return [_answer(site, done.stdout.strip(), capture, bool(header))]


def _answer(site: Site, code: str, capture: Capture, with_token: bool) -> Verdict:
    model = site.plan.recipe.model
    if code[:1] in {"2", "3"}:
        return good(capture, f"the hub answers {code} for {model}")
    if code in {"401", "403"}:
        how = "with this HF_TOKEN" if with_token else "without a token"
        cause = f"the hub does not give {model} to {site.name} {how} ({code}): it is gated, private, or not there"
        fix = f"accept its terms at {HUB}/{model}; export HF_TOKEN=..."
        return bad(capture, code, cause=cause, fix=fix, severity="warning")
    if code == "404":
        cause = f"the hub has no model {model}"
        return bad(capture, code, cause=cause, fix="see the id for a slip of the pen", severity="warning")
    said = capture.stderr.strip() or f"answer {code or 'none'}"
    cause = f"{site.name} does not reach the hub: {said}"
    if not site.host.model_cache:
        return unknown(capture, f"{cause}; whether a cache has the model is not known")
    fix = f"hf download {model} where there is a network: `up` copies it from there; or https_proxy in env"
    return bad(capture, said, cause=cause, fix=fix, severity="warning")


def cache_writable(site: Site) -> list[Verdict]:
    """The engine's user may write the model cache: locks and references go there even where the model is complete."""
    folder = site.host.model_cache or ""
    _, capture = site.look(Fact("cache", ["test", "-w", folder], str))
    if capture.code == 0:
        return [good(capture, f"{folder} may be written")]
    if capture.code != 1:
        return [unknown(capture, capture.missing or capture.stderr.strip())]
    cause = f"{folder} on {site.name} is not there, or may not be written by this user"
    return [bad(capture, "test -w ended with 1", cause=cause, fix=site.paste("ls", "-ld", folder))]


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


def whole_weights(site: Site) -> list[Verdict]:
    """No weight file is a Git LFS pointer, and of those that are numbered none is missing."""
    folder = model_folder(site)
    if folder is None:
        return [untold("the model has no folder")]
    seen, capture = site.look(Fact("weights", ["ls", "-lnL", "--", folder], parse_listing))
    if seen.value is None:
        return [unknown(capture, seen.why)]
    weights = {name: size for name, size in seen.value.items() if name.endswith(".safetensors")}
    stubs = _stubs(site, folder, [name for name, size in weights.items() if size < STUB_BYTES])
    numbered = [re.fullmatch(r"(.+)-(\d+)-of-(\d+)\.safetensors", name) for name in weights]
    parts = {(found[1], int(found[3])): set[int]() for found in numbered if found}
    for found in numbered:
        if found:
            parts[found[1], int(found[3])].add(int(found[2]))
    gaps = [
        f"{stem}-{n:05}-of-{of:05}" for (stem, of), have in parts.items() for n in range(1, of + 1) if n not in have
    ]
    if weights and not stubs and not gaps:
        return [good(capture, f"{len(weights)} files of weights")]
    if not weights:
        return [unknown(capture, f"{folder} holds no *.safetensors")]
    what = f"{stubs[0]} is a Git LFS pointer, not weights" if stubs else f"{gaps[0]} is missing"
    cause = f"in {folder} on {site.name} {what}" + (
        f", and {len(stubs) + len(gaps) - 1} more" if stubs[1:] or gaps[1:] else ""
    )
    return [bad(capture, what, cause=cause, fix=site.paste("hf", "download", site.plan.recipe.model))]


def _stubs(site: Site, folder: str, small: list[str]) -> list[str]:
    """Which of these are Git LFS pointers: a small file of weights may be whole, as a test's model is."""
    if not small:
        return []
    paths = {f"{folder.rstrip('/')}/{name}": name for name in small}
    seen, _ = site.look(Fact("stubs", ["grep", "-lsF", "-e", STUB_WORDS, "--", *paths], str.splitlines))
    return [paths[line] for line in seen.value or [] if line in paths]
