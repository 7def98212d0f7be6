"""`--set NAME=VALUE`: a recipe with some of its values changed, each checked before anything starts.

A name is looked up among: `variant`, degrees of the layout (`tp`, `layout.tp`), fields of the recipe (dotted, such as
`env.FOO`), then engine arguments. Case does not matter, nor do dashes for underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from overspan.catalog import flags
from overspan.schema import secrets
from overspan.schema.errors import RecipeError, UnknownName, did_you_mean
from overspan.schema.layout import parse_layout
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import make

DEGREES: Final = ("tp", "pp", "dp", "ep")
# Names that guides and scripts use for the same thing; source: the tables of seeds 000 and 003.
ALIASES: Final = {
    "gpu_memory_util": "gpu_memory_utilization",
    "tensor_parallel": "layout.tp",
    **{degree: f"layout.{degree}" for degree in DEGREES},
}
_FIXED: Final = ("variants", "locked", "name")
_TEXT_FIELDS: Final = (
    *("model", "image", "revision", "served_model_name"),
    *("description", "source", "engine_version", "host"),
)
_HOLDS_MORE: Final = ("env", "engine_args", "roles")
"""A setting of one of these whole may hold a secret: it is checked as each of its parts would be, and not quoted."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def apply(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with these settings; a variant is applied before everything else, then in the order given.

    Args:
        recipe: any recipe.
        settings: texts such as `port=8889`, `tp=2`, `layout=tep2`, `env.FOO=bar`, `variant=cutlass`.

    Raises:
        UnknownName: no such field, engine argument or variant, with the nearest ones.
        RecipeError: a value of the wrong type or out of range, with what is allowed.
    """
    pairs = [_split(setting) for setting in settings]
    first = ("variant", "engine")  # the others are checked as arguments of the engine
    degrees: list[tuple[str, str, str]] = []
    for name, value in sorted(pairs, key=lambda pair: first.index(_fold(pair[0])) if _fold(pair[0]) in first else 2):
        path = _path(name)
        where = f"--set {name}" if path in _HOLDS_MORE else f"--set {name}={value}"
        if path == "variant":
            recipe = with_variant(recipe, value)
        elif path.partition(".")[0] == "layout":
            degrees.append((path.partition(".")[2], value, where))
        else:
            recipe = _with(recipe, _changes(recipe, name, path, value), where)
            if path in _HOLDS_MORE:
                _check_held(recipe, where)
    return _with_layout(recipe, degrees) if degrees else recipe


def _split(setting: str) -> tuple[str, str]:
    name, sign, value = setting.partition("=")
    if not sign or not name.strip():
        raise RecipeError(f"--set {setting}: expected NAME=VALUE", next="for example --set port=8889")
    return name.strip(), value.strip()


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def with_variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one of its variants merged in: a null there takes a value of the recipe away.

    Raises:
        UnknownName: the recipe has no such variant.
        RecipeError: the variant holds a wrong key or value.
    """
    if name not in recipe.variants:
        known = ", ".join(recipe.variants) or "none"
        raise UnknownName("variant", name, recipe.variants, next=f"variants of {recipe.name}: {known}")
    changes = dict(recipe.variants[name])
    data = _data(recipe)
    for key in ("engine_args", "env"):
        merged = {**data.get(key, {}), **changes.pop(key, {})}
        data[key] = {inner: value for inner, value in merged.items() if value is not None}
    for key in ("warnings", "requires"):
        data[key] = [*data.get(key, []), *changes.pop(key, [])]
    return make(Recipe, {**data, **changes}, f"variant {name} of {recipe.name}")


def _path(name: str) -> str:
    """Where a name's value lives in a recipe."""
    folded = ALIASES.get(_fold(name), _fold(name))
    return str(flags.VLLM.notes["owned"].get(folded, folded))


def _changes(recipe: Recipe, name: str, path: str, text: str) -> dict[str, Any]:
    """The fields of a recipe that a setting changes, with their new values."""
    head, _, tail = path.partition(".")
    site = flags.VLLM.notes["site"]
    if path in site:
        raise RecipeError(f"--set {name}: belongs to the inventory, not to a recipe", next=f"edit {site[path]}")
    arguments = flags.parser_of(recipe.engine).known
    if head == "env" and tail:
        variable = name.partition(".")[2]
        if not _ENV_NAME.fullmatch(variable):
            what = f"'{variable}' is not a name of an environment variable (letters, digits and _)"
            raise RecipeError(f"--set {name}={text}: {what}")
        secrets.refuse_env([variable], where=f"--set env.{variable}")
        return {"env": {**recipe.env, variable: text}}
    if head == "engine_args" and tail:
        return _engine_arg(recipe, tail, text)
    if head in Recipe.model_fields and head not in _FIXED:
        return _field(recipe, path, text)
    if head in arguments:
        return _engine_arg(recipe, path, text)
    known = [*Recipe.model_fields, *DEGREES, "variant", *arguments]
    raise UnknownName("setting", name, [option for option in known if option not in _FIXED], next=_help())


def _help() -> str:
    fields = [field for field in Recipe.model_fields if field not in _FIXED]
    return f"a field ({', '.join(fields)}), tp, pp, dp, ep, variant, or an argument of the engine"


def _with(recipe: Recipe, changes: dict[str, Any], where: str) -> Recipe:
    try:
        return make(Recipe, {**_data(recipe), **changes}, where)
    except RecipeError as error:
        error.next = error.next or _allowed(next(reversed(changes)))
        raise


def _check_held(recipe: Recipe, where: str) -> None:
    parser, version = flags.parser_of(recipe.engine), recipe.locked.engine_version if recipe.locked else None
    of_roles = ((role.env, role.engine_args) for role in recipe.roles.values())
    for env, args in ((recipe.env, recipe.engine_args), *of_roles):
        secrets.refuse_env(env, where=where)
        if problems := parser.check_recipe_args(args, version):
            raise RecipeError(f"{where}: {problems[0]}")


def _allowed(field: str) -> str | None:
    """`allowed: 1 to 65535`, from the field's own definition."""
    schema = Recipe.model_json_schema()["properties"][field]
    names = {"minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "above"}
    span = flags.allowed_range({ours: schema[name] for name, ours in names.items() if name in schema})
    return f"allowed: {span}" if span else None


def _data(recipe: Recipe) -> dict[str, Any]:
    data = recipe.model_dump(mode="json", exclude_defaults=True)
    # A layout that is stated stays stated, also one that equals the default: the planner chooses only where none is.
    return {**data, "layout": recipe.layout.model_dump()} if "layout" in recipe.model_fields_set else data


def _with_layout(recipe: Recipe, settings: list[tuple[str, str, str]]) -> Recipe:
    """All degrees at once: experts stay spread over all ranks, however many the others make."""
    layout, ep, where = recipe.layout, None, ""
    spread = layout.expert_parallel
    degrees = layout.model_dump(exclude={"ep"})
    for degree, text, where in settings:
        if not degree:
            parsed = parse_layout(text)
            degrees, spread, ep = parsed.model_dump(exclude={"ep"}), parsed.expert_parallel, None
        elif degree == "ep":
            ep = _degree(degree, text, where)
            spread = ep is True
        elif degree in DEGREES:
            degrees[degree] = _degree(degree, text, where)
        else:
            raise UnknownName("degree of a layout", degree, DEGREES)
    if ep is None or isinstance(ep, bool):
        ep = degrees["tp"] * degrees["dp"] if spread else 1
    return _with(recipe, {"layout": {**degrees, "ep": ep}}, where)


def _degree(degree: str, text: str, where: str) -> int:
    value = flags.yaml_value(text)
    if degree == "ep" and isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{where}: '{degree}' takes a whole number, 1 or more")
    return value


def _field(recipe: Recipe, path: str, text: str) -> dict[str, Any]:
    if path not in Recipe.model_fields:
        raise UnknownName("setting", path, list(Recipe.model_fields), next=_help())
    if path == "api_key" and text not in ("true", "false"):
        # The value is not quoted: it is a secret.
        raise RecipeError("--set api_key: takes true or false", next="the key itself comes from OVERSPAN_API_KEY")
    value = text if path in _TEXT_FIELDS and text != "null" else flags.yaml_value(text)
    # Some describe the model that is replaced.
    gone = ("package", "revision", "served_model_name") if path == "model" else ()
    return {**dict.fromkeys(gone), path: value}


def _engine_arg(recipe: Recipe, path: str, text: str) -> dict[str, Any]:
    name, _, inner = path.partition(".")
    parser = flags.parser_of(recipe.engine)
    flag = parser.known.get(name)
    if flag is None:
        raise RecipeError(f"--set {path}={text}: unknown engine argument '{name}'{did_you_mean(name, parser.known)}")
    value = None if text == "null" else flags.typed(flag, text)
    if inner:
        if not flag["kind"].startswith("json"):
            raise RecipeError(f"--set {path}={text}: engine argument '{name}' holds one value, not keys")
        value = flags.with_inner(recipe.engine_args.get(name), inner.split("."), value)
    problems = parser.check_recipe_args({name: value}, recipe.locked.engine_version if recipe.locked else None)
    if problems:
        raise RecipeError(f"--set {name}: {problems[0]}")
    merged = {**recipe.engine_args, name: value}
    return {"engine_args": {key: item for key, item in merged.items() if item is not None}}
