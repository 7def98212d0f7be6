"""Recipes of srt-slurm (srtctl) with vLLM workers as recipes of ours; what has no place here is told.

Source of the format: github.com/NVIDIA/srt-slurm, docs/config-reference.md and its own recipes under configs/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from overspan.catalog import flags, srtslurm_roles
from overspan.catalog.sparkrun import Imported
from overspan.catalog.srtslurm_roles import PREFIXES, left_out
from overspan.schema import secrets
from overspan.schema.errors import RecipeError
from overspan.schema.recipe import Recipe
from overspan.schema.topology import parse_topology
from overspan.schema.yamlio import make, read_text, read_yaml

_DROPPED: Final = {
    "infra": "where etcd and NATS run; Overspan places them",
    "services": "what runs beside the workers; Overspan places the etcd that its run needs",
    "slurm": "a site's matter; it belongs to `slurm` of the inventory",
    "sbatch_directives": "a site's matter; write them as slurm.directives of the inventory",
    "srun_options": "options of each step; Overspan renders its own",
    "extra_mount": "a site's matter",
    "container_mounts": "a site's matter",
    "setup_script": "commands in each container before the engine; write changes of files as patches of the recipe",
    "benchmark": "use overspan bench or a sweep",
    "sweep": "use overspan sweep",
    "health_check": "ready_timeout_s of the recipe says how long a start may take",
    "profiling": "use the engine's own profiler flags",
    "dynamo": "the engine's image or environment says which Dynamo runs",
    "reporting": "use overspan report",
    "monitoring": "use overspan status --watch",
}

_CARRIED: Final = frozenset(
    {"name", "schema_version", "model", "resources", "backend", "frontend", "identity", "environment"}
)

_SECTIONS: Final = ("model", "backend", "resources", "frontend", "environment")

_DEGREES: Final = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel")

_OURS: Final = frozenset({*_DEGREES, "served_model_name", "data_parallel_rpc_port", "host", "port"})
"""Set from the layout and the plan."""


def is_one(data: Any) -> bool:
    """Whether parsed YAML looks like a recipe of srt-slurm's."""
    first = isinstance(data, dict) and {"model", "resources", "backend"} <= data.keys()
    return first or srtslurm_roles.is_one(data)


def from_file(path: Path) -> Imported:
    """Read a file of srt-slurm's.

    Raises:
        RecipeError: it cannot be read, its workers are not vLLM's, or its roles make no topology.
    """
    data, _ = read_yaml(read_text(path), str(path))
    return from_data(data, str(path))


def from_data(data: Any, where: str) -> Imported:
    """As `from_file`, of parsed data."""
    if not is_one(data):
        raise RecipeError(f"{where}: a recipe of srt-slurm has model, and resources and backend, or roles")
    data, warnings = srtslurm_roles.as_first(data, where) if srtslurm_roles.is_one(data) else (data, [])
    data = {**data, **{section: _mapping(data, section, where) for section in _SECTIONS}}
    roles = _roles(data, where)
    warnings += _left_out(data)
    args = {role: _arguments(given, role, where) for role, given in roles.items()}
    env = {role: _environment(data, role, where) for role in roles}
    topology = _topology(data, args, warnings, where)
    own = {role: {name: value for name, value in held.items() if name not in _OURS} for role, held in args.items()}
    for role, held in own.items():
        _transfer(role, held, warnings)
        _only_vllms(role, held, warnings, where)
    common, environment = _common(own), _common(env)
    served = next((str(held["served_model_name"]) for held in args.values() if "served_model_name" in held), None)
    recipe = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", str(data.get("name", Path(where).stem)).lower()).strip("-._")[:63],
        "description": f"{topology['label']}, imported",
        "source": f"srt-slurm recipe {Path(where).name}",
        # `hf:` says that the path is a name on the hub.
        "model": _named(data, "model", "repo") or str(data["model"].get("path")).removeprefix("hf:"),
        "revision": _named(data, "model", "revision"),
        "image": _named(data, "container", "image") or data["model"].get("container") or None,
        "served_model_name": served,
        "engine": "dynamo" if "aggregated" not in roles and _frontend(data) == "dynamo" else "vllm",
        **topology["field"],
        "engine_args": common,
        "env": environment,
        "roles": {
            role: {"engine_args": _rest(own[role], common), "env": _rest(env[role], environment)}
            for role in roles
            if role != "aggregated" and (_rest(own[role], common) or _rest(env[role], environment))
        },
        "warnings": warnings,
    }
    return Imported(make(Recipe, recipe, where), warnings)


def _mapping(data: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A section; an empty one where it is left out.

    Raises:
        RecipeError: it is none.
    """
    held = data.get(name)
    if held is not None and not isinstance(held, dict):
        raise RecipeError(f"{where}: {name}: wanted a mapping (given: {held!r})")
    return held or {}


def _frontend(data: Mapping[str, Any]) -> str:
    return str(data["frontend"].get("type", "dynamo"))


def _left_out(data: Mapping[str, Any]) -> list[str]:
    """What of the recipe has no place in ours."""
    told = [left_out(key, _DROPPED[key]) if key in _DROPPED else left_out(key) for key in data if key not in _CARRIED]
    told += [left_out(f"frontend.{key}") for key, value in data["frontend"].items() if key != "type" and value]
    read = {"type", "vllm_config", *(f"{role}_environment" for role in PREFIXES)}
    return told + [left_out(f"backend.{key}") for key, value in data["backend"].items() if key not in read and value]


def _roles(data: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    backend = data["backend"]
    given = backend.get("vllm_config")
    if not isinstance(given, dict):
        kind = backend.get("type") or ", ".join(key for key in backend if key.endswith("_config")) or "nothing"
        raise RecipeError(f"{where}: backend is {kind}; only workers of vLLM (vllm_config) can be imported")
    roles = {role: held for role, held in given.items() if role in PREFIXES and isinstance(held, dict)}
    if set(roles) not in ({"aggregated"}, {"prefill", "decode"}):
        raise RecipeError(
            f"{where}: backend.vllm_config has {', '.join(given)}; wanted prefill and decode, or aggregated"
        )
    return {role: roles[role] for role in PREFIXES if role in roles}


def _arguments(given: Mapping[str, Any], role: str, where: str) -> dict[str, Any]:
    """vLLM's arguments under their names with underscores; `no-x: true` is x off."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name.startswith("no_") and isinstance(value, bool):
            found[name.removeprefix("no_")] = not value
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            found[name] = _document(value, f"{where}: backend.vllm_config.{role}.{key}")
        else:
            found[name] = value
    return found


def _document(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecipeError(f"{where} is no JSON: {error}") from None


def _environment(data: Mapping[str, Any], role: str, where: str) -> dict[str, str]:
    own = _mapping(data["backend"], f"{role}_environment", f"{where}: backend")
    found = {**data["environment"], **own}
    secrets.refuse_env(found, where=where)
    return {str(name): str(value) for name, value in found.items()}


def _topology(
    data: Mapping[str, Any], args: dict[str, dict[str, Any]], warnings: list[str], where: str
) -> dict[str, Any]:
    resources = data["resources"]
    labels, counts = {}, {}
    for role, held in args.items():
        labels[role] = _label(held, f"{where}: backend.vllm_config.{role}")
        prefix = PREFIXES[role]
        counts[role] = _count(resources, f"{prefix}_workers", f"{where}: resources")
        layout = parse_topology(labels[role]).roles[0].layout
        nodes, each = resources.get(f"{prefix}_nodes"), resources.get("gpus_per_node")
        # `colocate`, or 0: on what the other role leaves free.
        reserved = nodes * each if isinstance(nodes, int) and isinstance(each, int) else 0
        if reserved and reserved != counts[role] * layout.world_size:
            warnings.append(
                f"resources: {role} reserves {nodes} nodes of {each} GPUs for "
                f"{counts[role]} x {layout.world_size} ranks"
            )
    if "aggregated" in args:
        _one_worker(data, counts["aggregated"], warnings)
        return {"label": labels["aggregated"], "field": {"layout": labels["aggregated"].lower()}}
    text = f"{counts['prefill']}P{counts['decode']}D {labels['prefill']}->{labels['decode']}"
    return {"label": parse_topology(text).label, "field": {"topology": text}}


def _one_worker(data: Mapping[str, Any], workers: int, warnings: list[str]) -> None:
    """An aggregated recipe of ours is one worker, which answers requests itself."""
    if _frontend(data) != "vllm":
        warnings.append(f"frontend: {_frontend(data)}: not carried over: an aggregated worker answers by itself")
    if workers > 1:
        warnings.append(f"resources: one of {workers} aggregated workers is imported; dp runs more behind one endpoint")


def _count(held: Mapping[str, Any], name: str, where: str) -> int:
    """A count that is 1 where it is left out.

    Raises:
        RecipeError: it is no whole number.
    """
    value = held.get(name)
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RecipeError(f"{where}.{name}: wanted a whole number from 1 on (given: {value!r})")
    return value


def _label(held: Mapping[str, Any], where: str) -> str:
    tp, pp, dp = (_count(held, name, where) for name in _DEGREES[:3])
    spread = bool(held.get("enable_expert_parallel"))
    stages = f"pp{pp}" if pp > 1 else ""
    if dp == 1:
        return f"{stages}{'tep' if spread and tp > 1 else 'tp'}{tp}"
    if tp == 1:
        return f"{stages}{'dep' if spread else 'dp'}{dp}"
    return f"{stages}tp{tp}dp{dp}{'ep' if spread else ''}"


def _transfer(role: str, held: dict[str, Any], warnings: list[str]) -> None:
    """A transfer that failed must fail the request: with `recompute` it may answer wrongly."""
    said = _policies(held.get("kv_transfer_config")) - {"fail"}
    if said:
        policy = ", ".join(sorted(said))
        warnings.append(f"{role}: kv_load_failure_policy {policy} becomes fail: a failed transfer fails its request")
        held["kv_transfer_config"] = _all_fail(held["kv_transfer_config"])


def _policies(transfer: Any) -> set[str]:
    """Those of a connector's configuration, and of all that it holds."""
    if isinstance(transfer, list):
        return set().union(*map(_policies, transfer))
    if not isinstance(transfer, dict):
        return set()
    own = {str(transfer["kv_load_failure_policy"])} if "kv_load_failure_policy" in transfer else set()
    return own.union(*map(_policies, transfer.values()))


def _all_fail(transfer: Any) -> Any:
    if isinstance(transfer, list):
        return [_all_fail(each) for each in transfer]
    if not isinstance(transfer, dict):
        return transfer
    return {key: "fail" if key == "kv_load_failure_policy" else _all_fail(value) for key, value in transfer.items()}


def _only_vllms(role: str, held: dict[str, Any], warnings: list[str], where: str) -> None:
    """What is not of vLLM's own parser would be refused when the recipe is read: it is left out and told.

    Raises:
        RecipeError: an argument of vLLM's has a wrong value, or is a secret.
    """
    notes = flags.VLLM.notes
    for name, value in list(held.items()):
        problems = flags.VLLM.check_recipe_args({name: value})
        if not problems:
            continue
        if name in notes["secret"] or (name in flags.VLLM.known and name not in (*notes["launch"], *notes["owned"])):
            raise RecipeError(f"{where}: backend.vllm_config.{role}: {problems[0]}")
        del held[name]
        whose = "an argument of Dynamo's, not of vLLM's" if name.startswith("dyn_") else problems[0]
        warnings.append(left_out(f"{role}.{name}", whose))


def _common(held: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = held.values()
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _rest(held: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key not in common}


def _named(data: Mapping[str, Any], what: str, field: str) -> str | None:
    identity = data.get("identity")
    held = identity.get(what) if isinstance(identity, dict) else None
    value = held.get(field) if isinstance(held, dict) else None
    return str(value) if value else None
