"""Read a `vllm serve` command line that somebody else wrote, back to arguments by name."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Final

from overspan.catalog import flags
from overspan.schema.errors import RecipeError

_OPERATORS: Final = frozenset(";&|<>()\n")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?|\$\(|\$$|`")
_DASHES: Final = re.compile(r"--?[A-Za-z]")


@dataclass(frozen=True)
class Served:
    """What a command line says. `left_out` holds one sentence for each thing that has no place in a recipe."""

    model: str | None
    args: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_command(text: str, where: str) -> Served:
    """The one `vllm serve` of a shell script. No shell is started.

    Raises:
        RecipeError: no such command, a variable of the shell in it, or quotes that do not end.
    """
    commands = _commands(text, where)
    served = [command for command in commands if _serve_at(command) is not None]
    if len(served) != 1:
        raise RecipeError(f"{where}: expected one `vllm serve`, found {len(served)}")
    command = served[0]
    start = _serve_at(command) or 0
    for word in command:
        if variable := _VARIABLE.search(word):
            raise RecipeError(
                f"{where}: unresolved: {variable[0]} is a variable of a shell, and no shell reads a recipe", quote=word
            )
    env = {found[1]: found[2] for word in command[:start] if (found := _ASSIGNMENT.fullmatch(word))}
    others = [shlex.join(other) for other in commands if other is not command]
    left_out = [f"command: not run: {other[:120]}" for other in others]
    model, args, unknown = _arguments(command[start + 2 :])
    return Served(model, args, env, [*left_out, *unknown])


def _commands(text: str, where: str) -> list[list[str]]:
    """The simple commands of a script, split at the shell's operators and line ends."""
    joined = re.sub(r"\\[ \t]*\n", " ", text)
    lexer = shlex.shlex(joined, posix=True, punctuation_chars="".join(_OPERATORS))
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word and set(word) <= _OPERATORS:
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    return [command for command in commands if command]


def _serve_at(command: list[str]) -> int | None:
    """Where `vllm serve` stands, behind assignments and `exec`."""
    for index, word in enumerate(command):
        if word.rsplit("/", 1)[-1] == "vllm" and command[index + 1 : index + 2] == ["serve"]:
            return index
        if word not in ("exec", "env") and not _ASSIGNMENT.fullmatch(word):
            return None
    return None


def _arguments(words: list[str]) -> tuple[str | None, dict[str, Any], list[str]]:
    """The model, the arguments by name, and what the newest vLLM does not know."""
    names = {option: name for name, flag in flags.VLLM.known.items() for option in flag["options"]}
    model: str | None = None
    args: dict[str, Any] = {}
    left_out, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        option, sign, inline = word.partition("=")
        base, _, inner = option.partition(".")
        folded = base.replace("_", "-") if base.startswith("--") else base
        if not _DASHES.match(word):
            model = model or word
            continue
        name = names.get(folded)
        if name is None:
            values = [inline] if sign else _values(rest, many=True)
            left_out.append(f"{shlex.join([option, *values])}: vLLM {flags.LATEST} has no such argument")
            continue
        flag = flags.VLLM.known[name]
        given = [inline] if sign else [] if flag["kind"] in _SWITCHES else _values(rest, many=bool(flag.get("many")))
        value = _value(flag, folded, given)
        args[name] = flags.with_inner(args.get(name), inner.split("."), value) if inner else value
    return model, args, left_out


_SWITCHES: Final = ("boolean", "switch")


def _values(rest: list[str], *, many: bool) -> list[str]:
    """Takes the values of an option off the front: one, or all up to the next option."""
    taken: list[str] = []
    while rest and not _DASHES.match(rest[0]) and (many or not taken):
        taken.append(rest.pop(0))
    return taken


def _value(flag: dict[str, Any], option: str, given: list[str]) -> Any:
    if flag["kind"] in _SWITCHES:
        return not option.startswith("--no-")
    if flag.get("many"):
        return [flags.typed({**flag, "many": None}, text) for text in given]
    return flags.typed(flag, given[0]) if given else True
