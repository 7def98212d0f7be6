"""Names of environment variables that hold secrets: never in a recipe, a plan, argv or a log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from overspan.schema.errors import RecipeError

ENV_NAMES: Final = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "OVERSPAN_API_KEY",
    "VLLM_API_KEY",
    "NGC_API_KEY",
)


def refuse_env(names: Iterable[str], *, where: str) -> None:
    """Refuse a secret that stands in a recipe.

    Raises:
        RecipeError: names the variable and where it belongs.
    """
    for name in names:
        if name.upper() in ENV_NAMES:
            raise RecipeError(
                f"{where}: {name} is a secret and would stand in the plan",
                next=f"export {name} in the environment that runs overspan; it is handed on without being written",
            )
