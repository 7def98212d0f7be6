"""The arguments of an engine as data: checked before anything starts, and written as argv.

A `Parser` holds those of one engine. vLLM's is its own parser, dumped by provision/engine_side/dump_flags.py, and
notes.yaml: limits, first versions and homes that the parser does not tell. One version ships; `overspan engine learn`
keeps others in the cache, and what is sent to an engine of such a version is checked against exactly that.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from overspan.catalog import files
from overspan.schema.errors import RecipeError, did_you_mean, nearest
from overspan.schema.extensions import ENGINES, load
from overspan.schema.places import cache_dir
from overspan.schema.recipe import BUILT_IN_ENGINES
from overspan.schema.versions import version_of
from overspan.schema.yamlio import plain
from overspan.store.files import write_cached

Flags = dict[str, dict[str, Any]]
LATEST: Final = "0.32.0"
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)?[kKmMgGtT]?")
_FOLDER = "engine_flags"
_LIMITS: Final = {
    "minimum": ("{} or more", operator.ge),
    "above": ("more than {}", operator.gt),
    "maximum": ("at most {}", operator.le),
    "below": ("below {}", operator.lt),
}


class Parser:
    """The arguments that one engine takes.

    Args:
        title: the engine in messages: "vLLM".
        latest: its newest version that is known here.
        given: the arguments of that version, by the name that each has in a recipe; as files of the catalogue where
            None. A value has `options` (["--max-model-len"]) and `kind` (boolean, switch, integer, number, size, text,
            json ...), and may have `choices`, `many`, `minimum`, `maximum`, `above`, `below`.
        notes: what the parser does not tell, as in notes.yaml: `limits`, `since`, `owned`, `launch`, `secret`.
    """

    def __init__(
        self, title: str, latest: str, given: Flags | None = None, notes: Mapping[str, Any] | None = None
    ) -> None:
        self.title, self.latest = title, latest
        self._given, self._notes = given, notes

    @functools.cached_property
    def notes(self) -> dict[str, Any]:
        """What the parser does not tell: limits, first versions, homes of arguments that have a field of their own."""
        held = plain(files.text(_FOLDER, "notes.yaml")) if self._given is None else self._notes
        return {"limits": {}, "since": {}, "owned": {}, "launch": [], "secret": {}} | dict(held or {})

    @functools.cached_property
    def shipped(self) -> Flags:
        """Every argument of the version that ships with Overspan."""
        if self._given is not None:
            return self._with_limits(self._given)
        return self._with_limits(json.loads(files.text(_FOLDER, f"vllm-{self.latest}.json"))["flags"])

    @property
    def known(self) -> Flags:
        """Every argument of every version known here, as the one that ships has it."""
        learned = [self._kept(file) for file in sorted(_learned().glob(self._file_of("*").name))]
        return functools.reduce(lambda all_, flags: flags | all_, learned, self.shipped) if learned else self.shipped

    def exact(self, version: str | None) -> Flags | None:
        """The arguments of just that version; None where only other versions are known. 0.32.0+cpu is 0.32.0."""
        if version is None:
            return None
        file = self._file_of(version)
        if version != self.latest and file.exists():
            return self._kept(file)
        return self.shipped if version.partition("+")[0] == self.latest else None

    def keep(self, dump: dict[str, Any]) -> str:
        """Keep what dump_flags.py printed, for `exact` and `known`. Returns the version.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is no such document.
        """
        version: str = dump["version"]
        if not version_of(version) or not all(set(flag) >= {"options", "kind"} for flag in dump["flags"].values()):
            raise ValueError(version)
        file = self._file_of(version)
        write_cached(file, json.dumps(dump))
        return version

    def _file_of(self, version: str) -> Path:
        return _learned() / f"{self.title.lower()}-{re.sub(r'[^A-Za-z0-9.+_*-]', '_', version)}.json"

    def _kept(self, file: Path) -> Flags:
        return self._with_limits(_read(file, file.stat().st_mtime_ns))

    def _with_limits(self, flags: Flags) -> Flags:
        for name, limits in self.notes["limits"].items():
            if name in flags:
                kept = {key: value for key, value in flags[name].items() if key not in ("above", "below")}
                flags[name] = kept | limits
        return flags

    def check(self, engine_args: Mapping[str, Any], version: str | None = None) -> list[str]:
        """What is wrong with these engine arguments, one sentence each; an empty list when nothing is.

        Args:
            engine_args: values by name, as a recipe holds them: underscores, no dashes.
            version: of the engine that will get them; None when it is not known: then what any version takes will do.
        """
        own, every = self.exact(version), self.known
        problems = []
        for name, value in engine_args.items():
            if own is not None and name in every and name not in own:
                problem: str | None = f"is none of {self.title} {version}: its own parser does not know it"
            elif name not in every:
                problem = f"unknown engine argument '{name}'{did_you_mean(name, every)}"
            else:
                problem = _problem((own or every)[name], value) or (None if own else self._too_new(name, version))
            if problem:
                problems.append(problem if problem.startswith("unknown") else f"engine argument '{name}' {problem}")
        return problems

    def check_recipe_args(self, engine_args: Mapping[str, Any], version: str | None = None) -> list[str]:
        """As `check`, for a recipe: arguments that have another home there, or are secrets, are refused too."""
        problems, notes = self.check(engine_args, version), self.notes
        for name in engine_args:
            if name in notes["owned"]:
                what = f"has its own field in a recipe: set {notes['owned'][name]}"
            elif name in notes["launch"]:
                what = "is chosen for each rank at launch; leave it out"
            elif name in notes["secret"]:
                what = f"would show a secret in argv: {notes['secret'][name]}"
            else:
                continue
            problems.append(f"engine argument '{name}' {what}")
        return problems

    def _too_new(self, name: str, version: str | None) -> str | None:
        first = self.notes["since"].get(name)
        have, needed = version_of(version), version_of(first["version"]) if first else None
        if have is None or needed is None or have >= needed:
            return None
        return f"needs {self.title} {first['version']} or newer; this one is {version}"

    def to_argv(self, engine_args: Mapping[str, Any]) -> list[str]:
        """The arguments as the engine's command line takes them, in the order given.

        Booleans become `--flag` or `--no-flag`, dicts JSON with sorted keys, lists several values (or JSON, where the
        flag takes that); None and a switch that is off give nothing.

        Raises:
            RecipeError: a name that the engine does not know.
        """
        argv: list[str] = []
        every = self.known
        for name, value in engine_args.items():
            if name not in every:
                raise RecipeError(f"unknown engine argument '{name}'{did_you_mean(name, every)}")
            if value is not None:
                argv += _one(every[name], value)
        return argv


VLLM: Final = Parser("vLLM", LATEST)


def parser_of(engine: str) -> Parser:
    """The arguments of an engine that `EngineName` has let through; every engine that is built in takes vLLM's."""
    found = None if engine in BUILT_IN_ENGINES else load(ENGINES, engine)
    parser: Parser = found.flags if found else VLLM
    return parser


def _learned() -> Path:
    return cache_dir() / _FOLDER


@functools.lru_cache(maxsize=8)
def _read(file: Path, written_ns: int) -> Flags:
    flags: Flags = json.loads(file.read_text(encoding="utf-8"))["flags"]
    return flags


def _problem(flag: Mapping[str, Any], value: Any) -> str | None:
    if value is None:
        return None
    wanted = _mistyped(flag, value)
    if wanted:
        return f"takes {wanted} (given: {value!r})"
    for item in value if isinstance(value, list) and flag.get("many") else [value]:
        problem = _outside(flag, item) or _not_a_choice(flag, item)
        if problem:
            return f"{problem} (given: {item!r})"
    return None


def _mistyped(flag: Mapping[str, Any], value: Any) -> str | None:
    """What the flag takes, when the value is not that."""
    if flag.get("many") and isinstance(value, list):
        wrong = [wanted for item in value if (wanted := _mistyped({**flag, "many": None}, item))]
        return f"a list, each item {wrong[0]}" if wrong else None
    kind, number = flag["kind"], isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    text_size = isinstance(value, str) and _SIZE.fullmatch(value) is not None
    right: dict[str, tuple[bool, str]] = {
        "boolean": (isinstance(value, bool), "true or false"),
        "switch": (isinstance(value, bool), "true or false"),
        "integer": (whole, "a whole number"),
        "number": (number, "a number"),
        "size": (whole or text_size, "a whole number or one such as 4k (thousands) or 4K (1024s)"),
        "size_or_auto": (whole or text_size or value == "auto", "a whole number, one such as 4k, or auto"),
        "text": (isinstance(value, str) or number or (value is True and "optional_value" in flag), "text"),
        "json": (_is_json(value), "keys and values (JSON)"),
        "json_or_text": (isinstance(value, (dict, list, str)), "text, or keys and values (JSON)"),
    }
    good, wanted = right[kind]
    return None if good else wanted


def _is_json(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return True
    try:
        return isinstance(value, str) and isinstance(json.loads(value), (dict, list))
    except json.JSONDecodeError:
        return False


def typed(flag: Mapping[str, Any], text: str) -> Any:
    """A text as an argument's kind has it. What does not fit is refused later, by the argument's name."""
    if flag["kind"] == "text" and not flag.get("many"):
        return text
    try:  # before YAML, for which 1e5 is text
        return json.loads(text) if flag["kind"].startswith("json") else yaml_value(text)
    except json.JSONDecodeError:
        return yaml_value(text)


def yaml_value(text: str) -> Any:
    """A value as YAML reads it; what is no YAML is text."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text


def with_inner(held: Any, path: list[str], value: Any) -> dict[str, Any]:
    """Keys and values with one more, at its place: `--speculative-config.method mtp` adds one key."""
    inside = held if isinstance(held, dict) else {}
    first, *below = path
    return {**inside, first: with_inner(inside.get(first), below, value) if below else value}


def allowed_range(flag: Mapping[str, Any]) -> str | None:
    """`0.1 to 1`, `1 or more`, `more than 0, at most 1`; None where a flag has no limits."""
    if flag.get("minimum") is not None and flag.get("maximum") is not None:
        return f"{flag['minimum']} to {flag['maximum']}"
    said = [words.format(flag[name]) for name, (words, _) in _LIMITS.items() if flag.get(name) is not None]
    return ", ".join(said) or None


def _outside(flag: Mapping[str, Any], value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if flag["kind"] == "size_or_auto" and value == -1:
        return None
    inside = all(keeps(value, flag[name]) for name, (_, keeps) in _LIMITS.items() if flag.get(name) is not None)
    return None if inside else f"must be {allowed_range(flag)}"


def _not_a_choice(flag: Mapping[str, Any], value: Any) -> str | None:
    choices = flag.get("choices")
    given = str(value).lower().replace("-", "_") if flag.get("folds_case") else value
    if not choices or given in choices:
        return None
    known = [str(choice) for choice in choices]
    near = nearest(str(value), known)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"must be one of {', '.join(known)}{hint}"


def _one(flag: Mapping[str, Any], value: Any) -> list[str]:
    option = str(flag["options"][0])
    if flag["kind"] in ("boolean", "switch"):
        if value:
            return [option]
        return [f"--no-{option[2:]}"] if flag["kind"] == "boolean" else []
    if value is True and "optional_value" in flag:
        return [option]
    if isinstance(value, list) and flag.get("many"):
        texts = [_text(item) for item in value]
        return [part for text in texts for part in (option, text)] if flag["many"] == "append" else [option, *texts]
    text = _text(value)
    # A value that starts with a dash would be read as the next flag.
    return [f"{option}={text}"] if text.startswith("-") else [option, text]


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return str(value)
