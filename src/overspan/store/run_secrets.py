"""A run's secrets: a file of mode 0600 in its folder, gone with the run's end. They never enter argv, plan or log."""

from __future__ import annotations

import json
import os
import re
import secrets as random
from collections.abc import Sequence

from overspan.schema.errors import InputError
from overspan.schema.plan import Plan
from overspan.schema.secrets import Secret
from overspan.store.files import write_whole
from overspan.store.run_folder import RunFolder

API_KEY = "VLLM_API_KEY"
"""The name of the endpoint's key among a run's secrets, and the variable of vLLM. Source: vllm/envs.py."""

_GIVEN = "OVERSPAN_API_KEY"
_FILE = "secrets.json"


def given(variable: str = _GIVEN) -> Secret | None:
    """The key in OVERSPAN_API_KEY (or in another variable), if there is one.

    Raises:
        InputError: no header can carry it; it is not quoted.
    """
    key = os.environ.get(variable) or None
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise InputError(
            f"{variable} is not a key: an HTTP header carries visible ASCII only",
            next=f"set {variable} to another value",
        )
    return Secret(key) if key is not None else None


def require(names: Sequence[str]) -> None:
    """Refuse a recipe whose secrets are not in this environment.

    Raises:
        InputError: names those that are not set.
    """
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"the recipe's secrets are not all set here: {', '.join(missing)}",
            next="; ".join(f"export {name}=..." for name in missing),
        )


def make(run: RunFolder, plan: Plan, key_variable: str, tokens: Sequence[str]) -> None:
    """Write the secrets that a run needs.

    Args:
        run: whose secrets they are.
        plan: of the run.
        key_variable: in which the engine takes the endpoint's key.
        tokens: names of what its engine's processes know each other by.

    Raises:
        InputError: a key that was given cannot be one, or one that several hosts share was not given.
    """
    secrets = {name: Secret(os.environ[name]) for name in plan.recipe.secrets}
    if plan.recipe.api_key and not plan.is_joiner:
        secrets[API_KEY] = secrets[key_variable] = given() or Secret(random.token_urlsafe(24))
    for name in tokens:
        token = given(name)
        if token is None and plan.part is not None:
            raise InputError(
                f"hosts that start separately need the same token, and {name} is not set here",
                next=f"export {name}=... , the same on every host",
            )
        secrets[name] = token or Secret(random.token_urlsafe(24))
    if secrets:
        values = {name: value.get_secret_value() for name, value in secrets.items()}
        write_whole(run.path / _FILE, json.dumps(values), mode=0o600)


def read(run: RunFolder) -> dict[str, Secret]:
    """The run's secrets; empty where it has none."""
    return {name: Secret(str(value)) for name, value in run.note(_FILE).items()}


def key_of(run: RunFolder) -> Secret | None:
    """The endpoint's key; None where it asks for none."""
    return read(run).get(API_KEY)


def file_of(run: RunFolder) -> str | None:
    """Where the endpoint's key is, for its owner to read; None where it asks for none."""
    return None if key_of(run) is None else str(run.path / _FILE)


def forget(run: RunFolder) -> None:
    """Remove the run's secrets. Twice is fine."""
    (run.path / _FILE).unlink(missing_ok=True)
