"""A model of the Hugging Face hub, in the hub's own cache, so that what a user has already is used."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from overspan.catalog import recipes
from overspan.provision.children import follow
from overspan.schema.errors import ModelUnavailable, OverspanError, nearest
from overspan.store.locks import Say


def fetch(model: str, revision: str | None, *, say: Say) -> tuple[Path, str]:
    """The folder of a model's snapshot and its commit; fetched now as far as it is not there.

    After a download that broke off, files that had arrived whole are kept. The one that was cut begins anew: the hub's
    library throws its parts away (huggingface_hub, `_download_to_tmp_and_move`).

    Raises:
        ModelUnavailable: gated, absent, no space, or the hub does not answer.
    """
    last = _asked(model, revision, [], say)
    if "path" in last:
        return Path(last["path"]), str(last["revision"])
    raise _problem(model, revision, last)


def fetch_sizes(model: str, revision: str | None = None) -> str | None:
    """Fetch what tells a model's sizes, config.json and the headers of its weights: some MB at most, and no weight.

    Returns:
        None where they are at hand now, else why the hub could not be asked.

    Raises:
        ModelUnavailable: gated, absent, or no id of the hub.
    """
    last = _asked(model, revision, ["sizes"], lambda _: None)
    if "path" in last:
        return None
    problem = _problem(model, revision, last)
    if last.get("problem") in {"offline", "http"}:
        return f"the hub was not reached for {model}'s sizes: {last.get('detail') or problem.what}"
    raise problem


def _asked(model: str, revision: str | None, more: list[str], say: Say) -> dict[str, Any]:
    """The last that a child of the hub's library told."""
    last: dict[str, Any] = {}
    other = ""

    def hear(line: str) -> None:
        nonlocal last, other
        message = _message(line)
        other = line if not message and line.strip() else other
        last = message or last
        if "say" in message:
            say(str(message["say"]))

    command = [sys.executable, "-m", "overspan.provision.hub_child", model, revision or "", *more]
    # The token goes by the environment, never by argv. Bars would fill the log of a run.
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        follow(command, hear, env=environment)
    except OverspanError as error:
        raise ModelUnavailable(f"model {model} could not be fetched", quote=error.quote) from None
    return last or {"problem": "http", "detail": other}


def _message(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _problem(model: str, revision: str | None, told: dict[str, Any]) -> ModelUnavailable:
    """One error for each way in which the hub says no."""
    kind, detail = told.get("problem"), told.get("detail")
    again = "run the same command again"
    if kind == "space":
        return ModelUnavailable(told["what"], next=told["next"])
    if kind in ("gated", "denied"):
        who = "your HF_TOKEN has no access to it" if os.environ.get("HF_TOKEN") else "it needs a token"
        steps = f"accept the terms at https://huggingface.co/{model}, then export HF_TOKEN=... and {again}"
        return ModelUnavailable(f"model {model} is {_GUARDED[kind]}: {who}", quote=detail, next=steps)
    if kind == "revision":
        return ModelUnavailable(f"model {model} has no revision {revision}", next="leave `revision` out, or correct it")
    if kind in ("absent", "id"):
        near = nearest(model.rpartition("/")[2], recipes.names())
        hint = f"; recipes with a name like it: {', '.join(near)}" if near else ""
        what = "is not on the hub, or is private" if kind == "absent" else "is neither a folder nor an id of the hub"
        return ModelUnavailable(
            f"model {model} {what}{hint}", quote=detail, next="give OWNER/NAME, a local folder, or the name of a recipe"
        )
    what, look = f"the hub failed on model {model}", again
    if kind == "offline":
        what = f"the hub does not answer, and model {model} is not whole in this machine's cache"
        look = f"look at the network, HF_ENDPOINT and HF_HUB_OFFLINE, then {again}"
    return ModelUnavailable(what, quote=detail, next=f"{look}: {_KEPT}")


_KEPT = "files that arrived whole are kept, the one that was cut begins anew"
_GUARDED = {"gated": "gated", "denied": "private or gated"}
