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


def of(asked: ArgValue | None, model: str, mtp_modules: int, stages: int = 1) -> Speculation:
    """What a twin is asked to draft.

    Args:
        asked: the recipe's speculative_config, a mapping or a JSON document.
        model: the recipe's; MTP may name it as the draft's.
        mtp_modules: of the twin.
        stages: of the layout's pipeline.
    """
    if not asked:
        return Speculation()
    config = _mapping(asked)
    why = "it is no JSON mapping" if config is None else _why_not(config, model, mtp_modules, stages)
    if config is None or why:
        return Speculation(left_out=[f"{NAME} ({why})"])
    kept = {name: value for name, value in config.items() if name not in (*_GPU_KEYS, "model")}
    return Speculation(config=kept, left_out=[f"{NAME}.{name}" for name in _GPU_KEYS if name in config])


def _why_not(config: dict[str, Any], model: str, mtp_modules: int, stages: int) -> str | None:
    method = str(config.get("method") or "")
    drafts_itself = method == "mtp" or method.endswith("_mtp")
    if not drafts_itself and method != "ngram":
        return f"{method or 'a draft model'}: its weights have no twin"
    if drafts_itself and not mtp_modules:
        return f"{method}: the twin has no MTP modules"
    if config.get("model") not in (None, model):
        return f"{method} of {config['model']}, which has no twin"
    if stages > 1:
        # Only its last stage has a drafter, and all ask for it (gpu_model_runner.py, _check_and_update_cudagraph_mode).
        return "vLLM 0.32's V1 runner, which CPUs have, drafts in no pipeline"
    return None


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
