"""Recipes of sparkrun (YAML, version 2) as recipes of ours; what has no place here is told, never lost in silence.

Source of the format: sparkrun 0.4.2 on PyPI (sparkrun/core/recipe.py, sparkrun/runtimes/_vllm_common.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overspan.catalog import flags
from overspan.catalog.vllm_command import Served, read_command, typed
from overspan.schema import secrets
from overspan.schema.errors import RecipeError
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import make, read_text, read_yaml

_ENGINES: Final = {"": None, "vllm": None, "vllm-distributed": "vllm", "vllm-ray": "vllm-ray", "eugr-vllm": "vllm-ray"}
"""Runtimes that are vLLM; None: Ray only where the recipe asks for its executor."""

_NAMES: Final = {
    "tensor_parallel": "tensor_parallel_size",
    "pipeline_parallel": "pipeline_parallel_size",
    "data_parallel": "data_parallel_size",
}
"""sparkrun's own names of arguments; all others are vLLM's."""

_CARRIED: Final = frozenset(
    {
        "recipe_version", "sparkrun_version", "min_sparkrun_version", "name", "description", "model",
        "model_revision", "runtime", "runtime_version", "container", "defaults", "env", "command", "metadata",
        "min_nodes", "max_nodes", "mode", "cluster_only", "solo_only",
    }
)  # fmt: skip

_DROPPED: Final = {
    "pre_exec": "commands inside each container before the engine; build them into the image",
    "post_exec": "commands after the start",
    "post_commands": "commands after the start",
    "mods": "patches of the image; build them into it",
    "builder": "how the image is built; pull or build it first",
    "builder_config": "how the image is built",
    "executor_config": "options of the container; put them into container.options of each host in the inventory",
    "cluster_config": "a site's matter; it belongs to the inventory",
    "distribution_config": "how files are copied; Overspan copies what differs",
    "layout": "placement by host; Overspan places by the inventory",
    "containers": "images by host; use images in the inventory",
    "overrides": "values by condition; use variants",
    "benchmark": "use overspan bench",
}

_SITE_ENV: Final = frozenset(
    {
        "VLLM_HOST_IP", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "NCCL_IB_HCA",
        "NCCL_IB_GID_INDEX", "UCX_NET_DEVICES", "OMPI_MCA_btl_tcp_if_include", "MASTER_ADDR", "HEAD_IP", "WORKER_IP",
    }
)  # fmt: skip
"""Set by Overspan for each host from the inventory (docs/sources.md#two-sparks)."""

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")
_DEPTH: Final = 8
"""How often a value may name another; a longer chain is a circle."""

_OPEN, _CLOSE = "\x00", "\x01"
_BRACES: Final = {"{{": _OPEN, "}}": _CLOSE}
_ESCAPED: Final = re.compile(r"\{\{|" + _PLACEHOLDER.pattern + r"|\}\}")
"""Read from the left, so that `{port}}}` is a name and then a brace."""


@dataclass(frozen=True)
class Imported:
    """A recipe, and one sentence for each thing that could not be carried over."""

    recipe: Recipe
    warnings: list[str]


def from_file(path: Path) -> Imported:
    """Read a file of sparkrun's.

    Raises:
        RecipeError: it cannot be read, is none of vLLM, holds what is unresolved or what vLLM would refuse.
    """
    data, _ = read_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected keys and values at the top, found {type(data).__name__}")
    return from_data(data, path.stem, str(path))


def from_data(data: Mapping[str, Any], stem: str, where: str) -> Imported:
    """As `from_file`, of parsed data; `stem` is the file's name, which is sparkrun's name of a recipe."""
    _require_ours(data, where)
    warnings = [f"{key}: not carried over: {why}" for key, why in _dropped(data).items()]
    values = {"model": data["model"], **_mapping(data, "defaults", where)}
    served = _served(data, values, where, warnings)
    env = _env({**served.env, **_mapping(data, "env", where)}, values, where, warnings)
    fields = _fields(served, str(data["model"]), where, warnings)
    ray = str(served.args.get("distributed_executor_backend", "")).lower() == "ray"
    metadata = data.get("metadata") if isinstance(data.get("metadata"), dict) else {}
    _nodes(data, fields["layout"], where, warnings)
    recipe = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:63] or "imported",
        "description": " ".join(str(data.get("description") or (metadata or {}).get("description") or "").split()),
        "source": f"sparkrun recipe {Path(where).name}",
        "revision": data.get("model_revision"),
        "engine": _ENGINES[str(data.get("runtime") or "")] or ("vllm-ray" if ray else "vllm"),
        "image": data.get("container") or None,
        **fields,
        "env": env,
        "warnings": warnings,
    }
    return Imported(make(Recipe, recipe, where), warnings)


def _require_ours(data: Mapping[str, Any], where: str) -> None:
    version = str(data.get("recipe_version", data.get("sparkrun_version", "2")))
    if version.split(".", maxsplit=1)[0] != "2":
        raise RecipeError(f"{where}: recipe_version {version}; only version 2 can be imported")
    if "include" in data:
        raise RecipeError(
            f"{where}: it includes {data['include']!r}, which is not here",
            next=f"sparkrun recipe export {Path(where).stem} writes it whole",
        )
    if not isinstance(data.get("model"), str) or not data["model"]:
        raise RecipeError(f"{where}: 'model' is required")
    runtime = str(data.get("runtime") or "")
    if runtime not in _ENGINES:
        raise RecipeError(
            f"{where}: runtime {runtime!r} is not vLLM; Overspan starts {', '.join(filter(None, _ENGINES))}"
        )


def _mapping(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: '{key}': expected keys and values, found {type(value).__name__}")
    return {str(name): item for name, item in value.items()}


def _dropped(data: Mapping[str, Any]) -> dict[str, str]:
    held = [key for key, value in data.items() if key not in _CARRIED and value not in (None, [], {}, "", False)]
    return {key: _DROPPED.get(key, "Overspan has no such setting") for key in held}


def _served(data: Mapping[str, Any], values: dict[str, Any], where: str, warnings: list[str]) -> Served:
    """From the command where there is one, else from the defaults alone, as sparkrun does."""
    template = data.get("command")
    if template is None:
        args = {_NAMES.get(name, name): value for name, value in values.items() if name != "model"}
        known = {name: value for name, value in args.items() if name in flags.VLLM.known}
        warnings += [f"defaults.{name}: vLLM {flags.LATEST} has no such argument" for name in args if name not in known]
        return Served(str(data["model"]), {name: _default(name, value) for name, value in known.items()})
    if not isinstance(template, str):
        raise RecipeError(f"{where}: 'command': expected text, found {type(template).__name__}")
    used: set[str] = set()
    served = read_command(fill(template, values, f"{where}: command", used), f"{where}: command")
    unused = [name for name in values if name not in used and name not in ("model", *_NAMES)]
    warnings += [f"defaults.{name}: the command does not use it" for name in unused]
    warnings += served.left_out
    return served


def _default(name: str, value: Any) -> Any:
    """A default as an argument: YAML has typed it already, except JSON and numbers in quotes."""
    return typed(flags.VLLM.known[name], _unescaped(value)) if isinstance(value, str) else value


def fill(template: str, values: Mapping[str, Any], where: str, used: set[str] | None = None) -> str:
    """The template with each `{name}` replaced, names in values too. `{{` and `}}` stand for braces where `{{` occurs.

    Raises:
        RecipeError: a name without a value, or a circle of names.
    """
    text = _ESCAPED.sub(lambda found: _BRACES.get(found[0], found[0]), template) if "{{" in template else template
    for _ in range(_DEPTH):
        names = _PLACEHOLDER.findall(text)
        if not names:
            return text.replace(_OPEN, "{").replace(_CLOSE, "}")
        missing = sorted({name for name in names if _value_of(values, name) is None})
        if missing:
            raise RecipeError(
                f"{where}: unresolved: {', '.join('{' + name + '}' for name in missing)} has no value",
                next="give it under defaults in that file",
            )
        if used is not None:
            used.update(name.removeprefix("config.") for name in names)
        text = _PLACEHOLDER.sub(lambda found: _text(_value_of(values, found[1])), text)
    raise RecipeError(f"{where}: unresolved: values name each other in a circle")


def _value_of(values: Mapping[str, Any], name: str) -> Any:
    return values.get(name.removeprefix("config."))


def _text(value: Any) -> str:
    return (
        _unescaped(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _unescaped(value: str) -> str:
    return value.replace("{{", "{").replace("}}", "}") if "{{" in value else value


def _env(env: Mapping[str, Any], values: Mapping[str, Any], where: str, warnings: list[str]) -> dict[str, str]:
    kept = {}
    for name, value in env.items():
        if secrets.is_secret(name):
            warnings.append(f"env.{name}: a secret; add its name to `secrets`, and export it where overspan runs")
        elif name in _SITE_ENV:
            warnings.append(f"env.{name}: a site's matter; Overspan sets it for each host from the inventory")
        else:
            if variable := _VARIABLE.search(str(value)):
                raise RecipeError(
                    f"{where}: env.{name}: unresolved: {variable[0]} is of the machine that starts sparkrun"
                )
            kept[name] = fill(str(value), values, f"{where}: env.{name}")
    return kept


def _fields(served: Served, model: str, where: str, warnings: list[str]) -> dict[str, Any]:
    """The arguments, each in its one home: a field of the recipe, the layout, or the engine's arguments."""
    args = dict(served.args)
    notes = flags.VLLM.notes
    names = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    tp, pp, dp = (_count(args.pop(name, 1), f"{where}: {name}") for name in names)
    spread = bool(args.pop("enable_expert_parallel", False))
    fields: dict[str, Any] = {"model": served.model or args.pop("model", None) or model}
    fields["layout"] = Layout(tp=tp, pp=pp, dp=dp, ep=tp * dp if spread else 1)
    public = args.pop("served_model_name", None)
    if public:
        fields["served_model_name"], *aliases = public if isinstance(public, list) else [public]
        warnings += [f"--served-model-name: a model has one name here; left out: {alias}" for alias in aliases]
    fields |= {name: args.pop(name) for name in ("host", "port") if name in args}
    for name in [name for name in args if name in notes["secret"]]:
        del args[name]
        fields |= {"api_key": True} if name == "api_key" else {}
        warnings.append(f"{name}: a secret: {notes['secret'][name]}")
    for name in [name for name in args if name in notes["launch"]]:
        value = args.pop(name)
        if name != "distributed_executor_backend" or value not in ("ray", "mp"):
            warnings.append(f"{name}: {value}: chosen for each rank at launch")
    problems = flags.VLLM.check_recipe_args(args)
    if problems:
        raise RecipeError(f"{where}: {problems[0]}")
    return {**fields, "engine_args": args}


def _nodes(data: Mapping[str, Any], layout: Layout, where: str, warnings: list[str]) -> None:
    """sparkrun's bounds on hosts follow from the layout here: one GPU a rank."""
    least = max(_count(data.get("min_nodes") or 1, f"{where}: min_nodes"), 2 if data.get("cluster_only") else 1)
    most = 1 if data.get("solo_only") or data.get("mode") == "solo" else data.get("max_nodes")
    if layout.world_size < least:
        warnings.append(f"min_nodes {least}: the layout {layout.label} takes {layout.world_size} GPU; --set tp={least}")
    if most is not None and layout.world_size > _count(most, f"{where}: max_nodes"):
        warnings.append(f"max_nodes {most}: the layout {layout.label} takes {layout.world_size} GPUs")


def _count(value: Any, where: str) -> int:
    """A number of ranks or hosts.

    Raises:
        RecipeError: it is none.
    """
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,3}", str(value)):
        raise RecipeError(f"{where}: expected a whole number from 1 on (given: {value!r})")
    return int(value)
