"""docs/commands.md and docs/recipe.md are written from the code. To accept a change: OVERSPAN_ACCEPT=1 and run this."""

import copy
import os
from pathlib import Path
from typing import Any

import click
import pytest

from overspan.cli.main import COMMANDS, cli
from overspan.schema.event import FINAL_STATES, SERVING_STATES, State
from overspan.schema.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"


def helps(command: click.Command, path: str) -> list[str]:
    # As the command line makes it: -h is inherited from the group. Click keeps the help option that a command was first
    # asked for, and other tests ask without the group: a copy has none yet.
    command = copy.copy(command)
    command._help_option = None
    context = click.Context(command, info_name=path, terminal_width=100, help_option_names=["-h", "--help"])
    pages = [f"## {path}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            pages += helps(command.commands[name], f"{path} {name}")
    return pages


def commands() -> str:
    pages = ["# Commands\n\nEach as `overspan COMMAND --help` prints it.\n"]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        pages += helps(command, f"overspan {name}")
    return "\n".join(pages)


def recipe() -> str:
    rows = [
        "# Recipes\n",
        "A recipe is YAML with these fields. `overspan up RECIPE --set NAME=VALUE` overrides any of them, a degree",
        "of the layout (`tp`, `pp`, `dp`, `ep`) or an argument of `vllm serve`. `overspan recipe show NAME` prints",
        "one that ships.\n",
        "| field | default | what it is |",
        "|---|---|---|",
    ]
    for name, field in Recipe.model_fields.items():
        rows.append(f"| `{name}` | {default(field)} | {field.description or ''} |")
    rows += ["\n## States of a run\n"]
    for state in State.__args__:  # type: ignore[attr-defined]
        note = " (it answers requests)" if state in SERVING_STATES else " (the end)" if state in FINAL_STATES else ""
        rows.append(f"- `{state}`{note}")
    return "\n".join(rows) + "\n"


def default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    return "" if value in (None, "", [], {}) else f"`{getattr(value, 'label', value)}`"


@pytest.mark.parametrize(("file", "make"), [("commands.md", commands), ("recipe.md", recipe)])
def test_the_page_is_what_the_code_says(file: str, make: Any) -> None:
    page = make()
    if os.environ.get("OVERSPAN_ACCEPT"):
        (DOCS / file).write_text(page)
    assert (DOCS / file).read_text() == page
