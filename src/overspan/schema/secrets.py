"""Secrets: variables and options that hold one are known by the form of their names; a value prints as `***`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import SecretStr

from overspan.schema.errors import RecipeError

HIDDEN: Final = "***"

_FORM: Final = re.compile(
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|api_?key|_(?:key|secrets|auth|pass|pwd))(?:_?\d+)?$"
)
_OTHER: Final = re.compile(
    r"(?:^|_)(?:public_key|cache_key|implicit_token|(?:first|last|[be]os|pad|unk|sep|cls|mask)_token)$"
)
"""Names of that form that hold none: a public key, HF_HUB_DISABLE_IMPLICIT_TOKEN (a switch), tokens of a vocabulary."""


class Secret(SecretStr):
    """A value that prints as `***` in text, in logs and in JSON.

    `get_secret_value()` gives it out: to a file of mode 0600, to standard input, to the environment of a
    process, or to a header.
    """

    def _display(self) -> str:
        return HIDDEN if self.get_secret_value() else ""

    def taken_out(self, text: str, mark: str = HIDDEN) -> str:
        """The text with a mark in the value's place, should somebody have quoted it; a quote may end inside of it."""
        value = self.get_secret_value()
        if not value:
            return text
        clean = text.replace(value, mark)
        cut = next((n for n in range(len(value) - 1, 3, -1) if clean.endswith(value[:n])), 0)
        return clean[:-cut] + mark if cut else clean


def authorization(key: Secret | None) -> dict[str, str]:
    """The header that carries an endpoint's key; none where there is no key."""
    return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}


def is_secret(name: str) -> bool:
    """Whether a variable, an option or a field of this name holds a secret.

    >>> [name for name in ("HF_TOKEN", "WANDB_API_KEY", "--api-key", "dbPassword") if not is_secret(name)]
    []
    >>> [name for name in ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "HF_TOKEN_PATH", "NCCL_IB_PKEY") if is_secret(name)]
    []
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-.\s]+", "_", name).lower()
    return _FORM.search(words) is not None and _OTHER.search(words) is None


def values(environment: Mapping[str, str] = os.environ) -> dict[str, Secret]:
    """The secrets that an environment holds, by the names of their variables; an empty one is none."""
    return {name: Secret(value) for name, value in environment.items() if value and is_secret(name)}


def refuse_env(names: Iterable[str], *, where: str) -> None:
    """Refuse a secret whose value stands in a recipe or an inventory.

    Raises:
        RecipeError: names the variable and where it belongs.
    """
    for name in names:
        if is_secret(name):
            raise RecipeError(
                f"{where}: {name} is a secret and would stand in the plan",
                next=f"take it out, add the name to `secrets` of the recipe, and export {name} where overspan runs: "
                "its value is handed on without being written",
            )
