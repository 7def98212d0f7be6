"""Recipes of sparkrun (YAML, version 2) as recipes of ours; what has no place here is told, never lost in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from overspan.catalog import flags
from overspan.catalog.foreign import DEGREES, Imported, count, dropped, layout_of, made, section, table
from overspan.catalog.vllm_command import Served, read_command
from overspan.schema import secrets
from overspan.schema.errors import RecipeError
from overspan.schema.layout import Layout
from overspan.schema.paste import command

_ENGINES: Final = {"": None, "vllm": None, "vllm-distributed": "vllm", "vllm-ray": "vllm-ray", "eugr-vllm": "vllm-ray"}
"""Runtimes that are vLLM; None: Ray only where the recipe asks for its executor."""

_NAMES: Final = {name.removesuffix("_size"): name for name in DEGREES}
"""sparkrun's own names of arguments; all others are vLLM's."""

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")
_DEPTH: Final = 8
"""How often a value may name another; a longer chain is a circle."""

_OPEN, _CLOSE = "\x00", "\x01"
_BRACES: Final = {"{{": _OPEN, "}}": _CLOSE}
_ESCAPED: Final = re.compile(r"\{\{|" + _PLACEHOLDER.pattern + r"|\}\}")
"""Read from the left, so that `{port}}}` is a name and then a brace."""


def from_data(data: Any, where: str) -> Imported:
    """A parsed file of sparkrun's; its name without the ending is sparkrun's name of the recipe.

    Raises:
        RecipeError: it is none of vLLM, holds what is unresolved or what vLLM would refuse.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: expected keys and values at the top, found {type(data).__name__}")
    return _SparkrunRecipe(data, where).imported()


class _SparkrunRecipe:
    """One recipe of sparkrun's. `warnings` are of what is not carried over."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        _require_ours(data, where)
        self._data, self._where = data, where
        held = [name for name, value in data.items() if value not in (None, [], {}, "", False)]
        self._warnings = dropped("sparkrun", held)
        self._values = {"model": data["model"], **section(data, "defaults", where)}

    def imported(self) -> Imported:
        data = self._data
        served = self._served()
        env = self._env({**served.env, **section(data, "env", self._where)})
        fields = self._fields(served)
        ray = str(served.args.get("distributed_executor_backend", "")).lower() == "ray"
        metadata = data.get("metadata")
        about = data.get("description") or (metadata.get("description") if isinstance(metadata, dict) else "")
        self._nodes(fields["layout"])
        recipe = {
            "name": Path(self._where).stem,
            "description": " ".join(str(about or "").split()),
            "source": f"sparkrun recipe {Path(self._where).name}",
            "revision": data.get("model_revision"),
            "engine": _ENGINES[str(data.get("runtime") or "")] or ("vllm-ray" if ray else "vllm"),
            "image": data.get("container") or None,
            **fields,
            "env": env,
        }
        return made(recipe, self._warnings, self._where)

    def _served(self) -> Served:
        """From the command where there is one, else from the defaults alone, as sparkrun does."""
        template, values = self._data.get("command"), self._values
        if template is None:
            args = {_NAMES.get(name, name): value for name, value in values.items() if name != "model"}
            unknown = [name for name in args if name not in flags.VLLM.known]
            self._warnings += [f"defaults.{name}: vLLM {flags.LATEST} has no such argument" for name in unknown]
            known = {name: _default(name, value) for name, value in args.items() if name not in unknown}
            return Served(str(self._data["model"]), known)
        if not isinstance(template, str):
            raise RecipeError(f"{self._where}: 'command': expected text, found {type(template).__name__}")
        used, where = {"model", *_NAMES}, f"{self._where}: command"
        served = read_command(_fill(template, values, where, used), where)
        self._warnings += [f"defaults.{name}: the command does not use it" for name in values if name not in used]
        self._warnings += served.left_out
        return served

    def _env(self, env: Mapping[str, Any]) -> dict[str, str]:
        kept = {}
        for name, value in env.items():
            if secrets.is_secret(name):
                why = "a secret; add its name to `secrets`, and export it where overspan runs"
                self._warnings.append(f"env.{name}: {why}")
            elif name in table("sparkrun")["site_env"]:
                why = "a site's matter; Overspan sets it for each host from the inventory"
                self._warnings.append(f"env.{name}: {why}")
            elif variable := _VARIABLE.search(str(value)):
                what = f"unresolved: {variable[0]} is of the machine that starts sparkrun"
                raise RecipeError(f"{self._where}: env.{name}: {what}")
            else:
                kept[name] = _fill(str(value), self._values, f"{self._where}: env.{name}", set())
        return kept

    def _fields(self, served: Served) -> dict[str, Any]:
        """The arguments, each in its one home: a field of the recipe, the layout, or the engine's arguments."""
        args, notes = dict(served.args), flags.VLLM.notes
        fields: dict[str, Any] = {"layout": layout_of(args, self._where)}
        for name in (*DEGREES, "enable_expert_parallel"):
            args.pop(name, None)
        fields["model"] = served.model or args.pop("model", None) or str(self._data["model"])
        public = args.pop("served_model_name", None)
        if public:
            fields["served_model_name"], *aliases = public if isinstance(public, list) else [public]
            told = "--served-model-name: a model has one name here; left out"
            self._warnings += [f"{told}: {alias}" for alias in aliases]
        fields |= {name: args.pop(name) for name in ("host", "port") if name in args}
        for name in [name for name in args if name in notes["secret"]]:
            del args[name]
            fields |= {"api_key": True} if name == "api_key" else {}
            self._warnings.append(f"{name}: a secret: {notes['secret'][name]}")
        for name in [name for name in args if name in notes["launch"]]:
            value = args.pop(name)
            if name != "distributed_executor_backend" or value not in ("ray", "mp"):
                self._warnings.append(f"{name}: {value}: chosen for each rank at launch")
        if problems := flags.VLLM.check_recipe_args(args):
            raise RecipeError(f"{self._where}: {problems[0]}")
        return {**fields, "engine_args": args}

    def _nodes(self, layout: Layout) -> None:
        """sparkrun's bounds on hosts follow from the layout here: one GPU a rank."""
        data, size = self._data, layout.world_size
        least = count(data.get("min_nodes") or None, f"{self._where}: min_nodes")
        least = max(least, 2 if data.get("cluster_only") else 1)
        most = 1 if data.get("solo_only") or data.get("mode") == "solo" else data.get("max_nodes")
        if size < least:
            self._warnings.append(f"min_nodes {least}: the layout {layout.label} takes {size} GPU; --set tp={least}")
        if most is not None and size > count(most, f"{self._where}: max_nodes"):
            self._warnings.append(f"max_nodes {most}: the layout {layout.label} takes {size} GPUs")


def _require_ours(data: Mapping[str, Any], where: str) -> None:
    version = str(data.get("recipe_version", data.get("sparkrun_version", "2")))
    if version.split(".", maxsplit=1)[0] != "2":
        raise RecipeError(f"{where}: recipe_version {version}; only version 2 can be imported")
    if "include" in data:
        raise RecipeError(
            f"{where}: it includes {data['include']!r}, which is not here",
            next=f"{command('sparkrun', 'recipe', 'export', Path(where).stem)} writes it whole",
        )
    if not isinstance(data.get("model"), str) or not data["model"]:
        raise RecipeError(f"{where}: 'model' is required")
    runtime = str(data.get("runtime") or "")
    if runtime not in _ENGINES:
        known = ", ".join(filter(None, _ENGINES))
        raise RecipeError(f"{where}: runtime {runtime!r} is not vLLM; Overspan starts {known}")


def _default(name: str, value: Any) -> Any:
    """A default as an argument: YAML has typed it already, except JSON and numbers in quotes."""
    return flags.typed(flags.VLLM.known[name], _unescaped(value)) if isinstance(value, str) else value


def _fill(template: str, values: Mapping[str, Any], where: str, used: set[str]) -> str:
    """The template with each `{name}` replaced, names in values too. `{{` and `}}` stand for braces where `{{` occurs.

    Raises:
        RecipeError: a name without a value, or a circle of names.
    """
    text = _ESCAPED.sub(lambda found: _BRACES.get(found[0], found[0]), template) if "{{" in template else template
    for _ in range(_DEPTH):
        names = {name: name.removeprefix("config.") for name in _PLACEHOLDER.findall(text)}
        if not names:
            return text.replace(_OPEN, "{").replace(_CLOSE, "}")
        missing = sorted(name for name, own in names.items() if values.get(own) is None)
        if missing:
            holes = ", ".join("{" + name + "}" for name in missing)
            raise RecipeError(f"{where}: unresolved: {holes} has no value", next="give it under defaults in that file")
        used.update(names.values())
        text = _PLACEHOLDER.sub(lambda found: _text(values[found[1].removeprefix("config.")]), text)
    raise RecipeError(f"{where}: unresolved: the values refer to each other in a circle")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _unescaped(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unescaped(value: str) -> str:
    return value.replace("{{", "{").replace("}}", "}") if "{{" in value else value
