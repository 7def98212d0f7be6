"""Recipes of srt-slurm (srtctl) with vLLM workers as recipes of ours; what has no place here is told.

Both schemas are read: the first has `backend` and `resources`, the second everything of a role in one place, `roles`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from overspan.catalog import flags
from overspan.catalog.foreign import DEGREES, Imported, count, dropped, layout_of, left_out, made, section
from overspan.schema import secrets
from overspan.schema.errors import RecipeError
from overspan.schema.topology import parse_topology

_PREFIXES: Final = {"prefill": "prefill", "decode": "decode", "aggregated": "agg"}
"""Our roles, which the first schema's sections are named by, and what its `resources` and schema 2 call them."""

_ROLES: Final = {prefix: role for role, prefix in _PREFIXES.items()}

_SECTIONS: Final = ("model", "backend", "resources", "frontend", "environment")

_OURS: Final = frozenset(
    {*DEGREES, "enable_expert_parallel", "served_model_name", "data_parallel_rpc_port", "host", "port"}
)
"""Set from the layout and the plan."""


def is_one(data: Any) -> bool:
    """Whether parsed YAML looks like a recipe of srt-slurm's."""
    return isinstance(data, dict) and ({"model", "resources", "backend"} <= data.keys() or _is_second(data))


def _is_second(data: Mapping[str, Any]) -> bool:
    return {"model", "roles"} <= data.keys()


def from_data(data: Any, where: str) -> Imported:
    """A parsed file of srt-slurm's.

    Raises:
        RecipeError: its workers are not vLLM's, or its roles make no topology.
    """
    if not is_one(data):
        raise RecipeError(f"{where}: a recipe of srt-slurm has model, and resources and backend, or roles")
    return _SrtSlurmRecipe(data, where).imported()


class _SrtSlurmRecipe:
    """One recipe of srt-slurm's. `warnings` are of what is not carried over."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._where = where
        self._warnings: list[str] = []
        self._data = data = self._as_first(data) if _is_second(data) else dict(data)
        self._data |= {name: section(data, name, where) for name in _SECTIONS}
        self._frontend = str(self._data["frontend"].get("type", "dynamo"))

    def imported(self) -> Imported:
        data, where = self._data, self._where
        roles = self._roles()
        self._tell_left_out()
        args = {role: self._arguments(given, role) for role, given in roles.items()}
        env = {role: self._environment(role) for role in roles}
        label, field = self._topology(args)
        own = {role: {name: value for name, value in held.items() if name not in _OURS} for role, held in args.items()}
        for role, held in own.items():
            self._transfer(role, held)
            self._only_vllms(role, held)
        common, environment = _common(own), _common(env)
        served = next((str(held["served_model_name"]) for held in args.values() if "served_model_name" in held), None)
        apart = {role: {"engine_args": _rest(own[role], common), "env": _rest(env[role], environment)} for role in own}
        recipe = {
            "name": data.get("name", Path(where).stem),
            "description": f"{label}, imported",
            "source": f"srt-slurm recipe {Path(where).name}",
            # `hf:` says that the path is a name on the hub.
            "model": self._identity("model", "repo") or str(data["model"].get("path")).removeprefix("hf:"),
            "revision": self._identity("model", "revision"),
            "image": self._identity("container", "image") or data["model"].get("container") or None,
            "served_model_name": served,
            "engine": "dynamo" if "aggregated" not in roles and self._frontend == "dynamo" else "vllm",
            **field,
            "engine_args": common,
            "env": environment,
            "roles": {role: held for role, held in apart.items() if role != "aggregated" and any(held.values())},
        }
        return made(recipe, self._warnings, where)

    def _as_first(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe of the second schema in the first.

        Raises:
            RecipeError: roles that are none, or are not all of vLLM.
        """
        roles, engine = data["roles"], data.get("engine")
        if not isinstance(roles, dict) or not all(isinstance(held, dict) for held in roles.values()):
            raise RecipeError(f"{self._where}: roles: expected prefill and decode, or agg, with keys and values")
        kinds = {str(_type(held.get("engine", engine))) for held in roles.values()}
        if kinds != {"vllm"}:
            said = ", ".join(sorted(kinds)) or "nothing"
            raise RecipeError(f"{self._where}: engine is {said}; only workers of vLLM can be imported")
        backend: dict[str, Any] = {"type": "vllm", "vllm_config": {}}
        resources = dict(data["resources"]) if isinstance(data.get("resources"), dict) else {}
        wide = [key for key in engine if key != "type"] if isinstance(engine, dict) else []
        self._warnings += [left_out(f"engine.{key}") for key in wide]
        for name, held in roles.items():
            first = _ROLES.get(name, name)
            backend["vllm_config"][first] = held.get("args") or {}
            backend[f"{first}_environment"] = held.get("env") or {}
            resources |= {f"{name}_{what}": held[what] for what in ("nodes", "workers") if what in held}
            read = ("nodes", "workers", "gpus", "env", "args", "engine")
            self._warnings += [left_out(f"roles.{name}.{key}") for key in held if key not in read]
        rest = {key: value for key, value in data.items() if key not in ("schema", "roles", "engine")}
        return {**rest, "backend": backend, "resources": resources}

    def _roles(self) -> dict[str, dict[str, Any]]:
        backend = self._data["backend"]
        given = backend.get("vllm_config")
        if not isinstance(given, dict):
            kind = backend.get("type") or ", ".join(key for key in backend if key.endswith("_config")) or "nothing"
            raise RecipeError(f"{self._where}: backend is {kind}; only workers of vLLM (vllm_config) can be imported")
        roles = {role: given[role] for role in _PREFIXES if isinstance(given.get(role), dict)}
        if set(roles) not in ({"aggregated"}, {"prefill", "decode"}):
            has = ", ".join(map(str, given))
            raise RecipeError(f"{self._where}: backend.vllm_config has {has}; wanted prefill and decode, or aggregated")
        return roles

    def _tell_left_out(self) -> None:
        self._warnings += dropped("srtslurm", self._data)
        backend = {"type", "vllm_config", *(f"{role}_environment" for role in _PREFIXES)}
        for name, keys in {"frontend": {"type"}, "backend": backend}.items():
            more = [key for key, value in self._data[name].items() if key not in keys and value]
            self._warnings += [left_out(f"{name}.{key}") for key in more]

    def _arguments(self, given: Mapping[str, Any], role: str) -> dict[str, Any]:
        """vLLM's arguments under their names with underscores; `no-x: true` is x off."""
        found: dict[str, Any] = {}
        for key, value in given.items():
            name = str(key).replace("-", "_")
            if name.startswith("no_") and isinstance(value, bool):
                found[name.removeprefix("no_")] = not value
            elif isinstance(value, str) and value.lstrip().startswith("{"):
                try:
                    found[name] = json.loads(value)
                except ValueError as error:
                    where = f"{self._where}: backend.vllm_config.{role}.{key}"
                    raise RecipeError(f"{where} is not JSON: {error}") from None
            else:
                found[name] = value
        return found

    def _environment(self, role: str) -> dict[str, str]:
        own = section(self._data["backend"], f"{role}_environment", f"{self._where}: backend")
        found = {**self._data["environment"], **own}
        secrets.refuse_env(found, where=self._where)
        return {name: str(value) for name, value in found.items()}

    def _topology(self, args: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, str]]:
        """What the roles make, as a label, and as a field of a recipe: a layout or a topology."""
        resources = self._data["resources"]
        labels, counts = {}, {}
        for role, held in args.items():
            layout, prefix = layout_of(held, f"{self._where}: backend.vllm_config.{role}"), _PREFIXES[role]
            workers = count(resources.get(f"{prefix}_workers"), f"{self._where}: resources.{prefix}_workers")
            labels[role], counts[role] = layout.label.upper(), workers
            nodes, each = resources.get(f"{prefix}_nodes"), resources.get("gpus_per_node")
            # `colocate`, or 0: on what the other role leaves free.
            reserved = nodes * each if isinstance(nodes, int) and isinstance(each, int) else 0
            if reserved and reserved != workers * layout.world_size:
                ranks = f"{workers} x {layout.world_size} ranks"
                self._warnings.append(f"resources: {role} reserves {nodes} nodes of {each} GPUs for {ranks}")
        if "aggregated" not in args:
            text = f"{counts['prefill']}P{counts['decode']}D {labels['prefill']}->{labels['decode']}"
            return parse_topology(text).label, {"topology": text}
        # An aggregated recipe of ours is one worker, which answers requests itself.
        if self._frontend != "vllm":
            self._warnings.append(left_out(f"frontend: {self._frontend}", "an aggregated worker answers by itself"))
        if counts["aggregated"] > 1:
            one = f"one of {counts['aggregated']} aggregated workers is imported"
            self._warnings.append(f"resources: {one}; dp runs more behind one endpoint")
        return labels["aggregated"], {"layout": labels["aggregated"].lower()}

    def _transfer(self, role: str, held: dict[str, Any]) -> None:
        """A transfer that failed must fail the request: with `recompute` it may answer wrongly."""
        said: set[str] = set()
        failing = _all_fail(held.get("kv_transfer_config"), said)
        if said - {"fail"}:
            policy = ", ".join(sorted(said - {"fail"}))
            becomes = "becomes fail: a failed transfer fails its request"
            self._warnings.append(f"{role}: kv_load_failure_policy {policy} {becomes}")
            held["kv_transfer_config"] = failing

    def _only_vllms(self, role: str, held: dict[str, Any]) -> None:
        """What is not of vLLM's own parser would be refused when the recipe is read: it is left out and told.

        Raises:
            RecipeError: an argument of vLLM's has a wrong value, or is a secret.
        """
        parser, notes = flags.VLLM, flags.VLLM.notes
        for name, value in list(held.items()):
            problems = parser.check_recipe_args({name: value})
            if not problems:
                continue
            if name in notes["secret"] or (name in parser.known and name not in (*notes["launch"], *notes["owned"])):
                raise RecipeError(f"{self._where}: backend.vllm_config.{role}: {problems[0]}")
            del held[name]
            whose = "an argument of Dynamo's, not of vLLM's" if name.startswith("dyn_") else problems[0]
            self._warnings.append(left_out(f"{role}.{name}", whose))

    def _identity(self, what: str, field: str) -> str | None:
        identity = self._data.get("identity")
        held = identity.get(what) if isinstance(identity, dict) else None
        value = held.get(field) if isinstance(held, dict) else None
        return str(value) if value else None


def _type(engine: Any) -> Any:
    return engine.get("type") if isinstance(engine, dict) else engine


def _all_fail(transfer: Any, said: set[str]) -> Any:
    """A connector's configuration with every policy in it `fail`; `said` is given those that stood there."""
    if isinstance(transfer, list):
        return [_all_fail(each, said) for each in transfer]
    if not isinstance(transfer, dict):
        return transfer
    policy = "kv_load_failure_policy"
    said |= {str(transfer[policy])} if policy in transfer else set()
    return {key: "fail" if key == policy else _all_fail(value, said) for key, value in transfer.items()}


def _common(held: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = held.values()
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _rest(held: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in common}
