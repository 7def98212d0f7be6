"""Schema 2 of srt-slurm's recipes, with everything of a role in one place, as the first schema that is read from there.

Source: github.com/NVIDIA/srt-slurm, docs/legacy-v1.md (what replaced what) and docs/topology.md (roles).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from overspan.schema.errors import RecipeError

PREFIXES: Final = {"prefill": "prefill", "decode": "decode", "aggregated": "agg"}
"""Our roles, which the first schema's sections are named by, and what its `resources` and schema 2 call them."""

_ROLES: Final = {prefix: role for role, prefix in PREFIXES.items()}

_CARRIED: Final = frozenset({"nodes", "workers", "gpus", "env", "args", "engine"})


def left_out(key: str, why: str = "Overspan has no such setting") -> str:
    """The warning of a setting that has no place in a recipe of ours."""
    return f"{key}: not carried over: {why}"


def is_one(data: Any) -> bool:
    """Whether a parsed recipe has the second schema."""
    return isinstance(data, dict) and {"model", "roles"} <= data.keys()


def as_first(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The recipe in the first schema, and what of its roles has no place there.

    Raises:
        RecipeError: roles that are none, or are not all of vLLM.
    """
    roles = data["roles"]
    if not isinstance(roles, dict) or not all(isinstance(held, dict) for held in roles.values()):
        raise RecipeError(f"{where}: roles: wanted a mapping of prefill and decode, or of agg")
    kinds = {str(_type(held.get("engine", data.get("engine")))) for held in roles.values()}
    if kinds != {"vllm"}:
        said = ", ".join(sorted(kinds)) or "nothing"
        raise RecipeError(f"{where}: engine is {said}; only workers of vLLM can be imported")
    backend: dict[str, Any] = {"type": "vllm", "vllm_config": {}}
    given = data.get("resources")
    resources = dict(given) if isinstance(given, dict) else {}
    engine = data.get("engine")
    wide = [key for key in engine if key != "type"] if isinstance(engine, dict) else []
    warnings = [left_out(f"engine.{key}") for key in wide]
    for name, held in roles.items():
        first = _ROLES.get(name, name)
        backend["vllm_config"][first] = held.get("args") or {}
        backend[f"{first}_environment"] = held.get("env") or {}
        resources |= {f"{name}_{what}": held[what] for what in ("nodes", "workers") if what in held}
        more = [key for key in held if key not in _CARRIED]
        warnings += [left_out(f"roles.{name}.{key}") for key in more]
    rest = {key: value for key, value in data.items() if key not in ("schema", "roles", "engine")}
    return {**rest, "backend": backend, "resources": resources}, warnings


def _type(engine: Any) -> Any:
    return engine.get("type") if isinstance(engine, dict) else engine
