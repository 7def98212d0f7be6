"""What of a recipe's speculative decoding a twin can go through. Pure.

Greedy tokens are the same whatever is drafted, so that a draft that is taken wrongly shows as any other fault does.
n-grams need no weights, and MTP modules are in the twin; a draft model of its own has no twin.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.recipe import ArgValue

NAME: Final = "speculative_config"
_GPU_KEYS: Final = ("attention_backend", "moe_backend", "quantization", "kv_cache_dtype")
"""Of the draft: kernels that no CPU has. Source: vLLM 0.32, config/speculative.py."""


class Speculation(Frozen):
    """`config` is what the twin is started with, None for none; `left_out` says of what a recipe asked why not."""

    config: dict[str, Any] | None = None
    left_out: list[str] = Field(default_factory=list)


def of(asked: ArgValue | None, model: str, mtp_modules: int) -> Speculation:
    """What a twin is asked to draft.

    Args:
        asked: the recipe's speculative_config, a mapping or a JSON document.
        model: the recipe's; MTP may name it as the draft's.
        mtp_modules: of the twin.
    """
    if not asked:
        return Speculation()
    config = _mapping(asked)
    if config is None:
        return Speculation(left_out=[f"{NAME} (it is no JSON mapping)"])
    method = str(config.get("method") or "")
    drafts_itself = method == "mtp" or method.endswith("_mtp")
    if not drafts_itself and method != "ngram":
        what = method or "a draft model"
        return Speculation(left_out=[f"{NAME} ({what}: its weights have no twin)"])
    if drafts_itself and not mtp_modules:
        return Speculation(left_out=[f"{NAME} ({method}: the twin has no MTP modules)"])
    if config.get("model") not in (None, model):
        return Speculation(left_out=[f"{NAME} ({method} of {config['model']}, which has no twin)"])
    kept = {name: value for name, value in config.items() if name not in (*_GPU_KEYS, "model")}
    return Speculation(config=kept, left_out=[f"{NAME}.{name}" for name in _GPU_KEYS if name in config])


def not_drafted(drafted: int, accepted: int) -> str | None:
    """Why drafting is not proven although it was on; None where drafts were taken and refused."""
    if not drafted:
        return f"{NAME} (nothing was drafted)"
    if accepted in (0, drafted):
        return f"{NAME} ({'none' if not accepted else 'all'} of {drafted} drafted tokens were taken)"
    return None


def _mapping(asked: ArgValue) -> dict[str, Any] | None:
    if isinstance(asked, str):
        try:
            asked = json.loads(asked)
        except ValueError:
            return None
    return dict(asked) if isinstance(asked, dict) else None
