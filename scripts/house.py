#!/usr/bin/env python3
"""Counts the bars of the house and prints them, one on a line. `make lint` runs it.

It ends with 1 when a bar does not hold. A bar that is not reached yet has a ratchet: what was reached may not be lost.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "overspan"
CONDITION = r"\b(?:{})(?:\.name)? (?:==|!=|in|not in) [\"'(\[{{]"


class Bar(NamedTuple):
    """One bar: what is counted, how many may be, where they stand; and what is reached, where the bar is not yet."""

    name: str
    found: list[str]
    limit: int
    total: int | None = None
    reached: int | None = None

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.found) if self.total is None else self.total

    @property
    def holds(self) -> bool:
        """Whether there are few enough."""
        return self.number <= self.limit


def main() -> int:
    """Print every bar; details of those that do not hold go to standard error."""
    bars = list(bars_of(sorted(SOURCE.rglob("*.py"))))
    for bar in bars:
        ratchet = f" (not reached; it may not pass {bar.reached})" if bar.reached and not bar.holds else ""
        print(f"{'ok  ' if bar.holds else 'OVER'}  {bar.number:>6}  of at most {bar.limit:>6}  {bar.name}{ratchet}")
    lost = [bar for bar in bars if bar.number > max(bar.limit, bar.reached or 0)]
    for bar in lost:
        for place in bar.found[:40]:
            print(f"{bar.name}: {place}", file=sys.stderr)
    return 1 if lost else 0


def bars_of(files: list[Path]) -> Iterator[Bar]:
    """Every bar of the house."""
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lengths = {file: len(text.splitlines()) for file, text in texts.items()}
    yield Bar("lines of src", [], 31_000, sum(lengths.values()), reached=45_000)
    yield Bar("files of more than 400 lines", [f"{_of(file)} {n}" for file, n in lengths.items() if n > 400], 0)
    yield Bar("functions of more than 60 lines", [each for file in files for each in _long(file, trees[file])], 0)
    yield Bar("copies that nothing validates (model_copy)", _lines(texts, r"\.model_copy\("), 0)
    yield Bar(
        "places outside engines/ that ask for an engine's name", _lines(texts, CONDITION.format("engine"), "engines"), 4
    )
    yield Bar(
        "places outside launchers/ that ask for a launcher's name",
        _lines(texts, CONDITION.format("launcher"), "launchers"),
        4,
    )
    yield Bar("names of classes and aliases with several meanings", _ambiguous(trees), 0)
    yield Bar("fields of documents without a type (dict[str, Any])", _untyped(trees), 0)
    yield Bar("words that only the authors understand (seed 00N)", _tracked(r"seed 00\d"), 0)


def _of(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def _lines(texts: dict[Path, str], pattern: str, room: str = "") -> list[str]:
    """Lines of code in which a pattern stands, outside of one room."""
    return [
        f"{_of(file)}:{number} {line.strip()}"
        for file, text in texts.items()
        if not room or file.relative_to(SOURCE).parts[0] != room
        for number, line in enumerate(text.split("\n"), 1)
        if re.search(pattern, line)
    ]


def _long(file: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > 60:
                yield f"{_of(file)}:{node.lineno} {node.name} {lines}"


def _ambiguous(trees: dict[Path, ast.Module]) -> list[str]:
    """Public names of classes and of type aliases that several modules define."""
    homes = defaultdict(list)
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(_of(file))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[0].isupper() and not name.isupper():
                    homes[name].append(_of(file))
    return [f"{name}: {', '.join(places)}" for name, places in homes.items() if len(places) > 1]


def _untyped(trees: dict[Path, ast.Module]) -> list[str]:
    """Fields of the schema's documents that hold anything, though another of our documents is what they hold."""
    return [
        f"{_of(file)}:{field.lineno} {node.name}.{ast.unparse(field.target)}"
        for file, tree in trees.items()
        if file.parent.name == "schema"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and re.search(r"dict\[str, Any\]", ast.unparse(field.annotation))
        and f"{node.name}.{ast.unparse(field.target)}" not in OPEN
    ]


OPEN = frozenset({"Event.data", "Recipe.variants"})
"""Fields that hold what others define: what an event tells, a recipe's own overrides by name. No type fits."""


def _tracked(pattern: str) -> list[str]:
    done = subprocess.run(
        ["git", "grep", "-nE", pattern, "--", ".", ":!scripts/house.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
