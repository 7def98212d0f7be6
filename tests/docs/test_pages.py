"""docs/commands.md and the tables of docs/recipe.md and docs/inventory.md are written from the code.

To accept a change: OVERSPAN_ACCEPT=1 and run this.
"""

import copy
import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from overspan.cli.main import COMMANDS, cli
from overspan.runs.planning import Wanted, plan_of
from overspan.schema.event import FINAL_STATES, MEANING, SERVING_STATES
from overspan.schema.inventory import ContainerRuntime, Fabric, Gpu, Host, Inventory, Link, Nic, Slurm, Ssh, Unreachable
from overspan.schema.recipe import KnownAnswer, PackagedFile, Patch, Recipe, RoleSettings
from overspan.sweep.expand import matrix_of

DOCS = Path(__file__).parents[2] / "docs"


def helps(command: click.Command, path: str) -> list[str]:
    # As the command line makes it: -h is inherited from the group. Click keeps the help option that a command was first
    # asked for, and other tests ask without the group: a copy has none yet.
    command = copy.copy(command)
    command._help_option = None
    context = click.Context(
        command, info_name=path, terminal_width=100, help_option_names=["-h", "--help"], show_default=True
    )
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


FIELDS = "## Every field\n"


def by_hand(file: str) -> str:
    """The part of a page that somebody wrote: all above its tables."""
    return (DOCS / file).read_text().partition(FIELDS)[0] + FIELDS


def rows_of(document: type[BaseModel]) -> list[str]:
    rows = ["| field | default | what it is |", "|---|---|---|"]
    for name, field in document.model_fields.items():
        assert field.description, f"{document.__name__}.{name} has no description"
        rows.append(f"| `{name}` | {default(field)} | {field.description} |")
    return rows


def recipe() -> str:
    pages = [by_hand("recipe.md"), *rows_of(Recipe)]
    for part, of in (
        (PackagedFile, "package"),
        (KnownAnswer, "known_answers"),
        (Patch, "patches"),
        (RoleSettings, "roles"),
    ):
        pages += [f"\n### {of}\n", *rows_of(part)]
    pages += ["\n## States of a run\n"]
    for state, meaning in MEANING.items():
        note = (
            " It answers requests." if state in SERVING_STATES else " This is the end." if state in FINAL_STATES else ""
        )
        pages.append(f"- `{state}`: {meaning}.{note}")
    return "\n".join(pages) + "\n"


def inventory() -> str:
    pages = [by_hand("inventory.md"), *rows_of(Inventory)]
    for part, of in (
        (Host, "hosts"),
        (Ssh, "hosts: ssh, and slurm: login"),
        (Gpu, "hosts: gpus"),
        (Nic, "hosts: nics"),
        (Fabric, "hosts: fabric"),
        (ContainerRuntime, "hosts: container"),
        (Slurm, "slurm"),
        (Link, "links"),
        (Unreachable, "unreachable"),
    ):
        pages += [f"\n### {of}\n", *rows_of(part)]
    return "\n".join(pages) + "\n"


def default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    return "" if value in (None, "", [], {}) else f"`{getattr(value, 'label', value)}`"


@pytest.mark.parametrize(("file", "document"), [("recipe.md", Recipe), ("inventory.md", Inventory)])
def test_the_examples_of_a_page_are_documents_that_overspan_takes(file: str, document: type[BaseModel]) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", by_hand(file), re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        document.model_validate(yaml.safe_load(example))


@pytest.mark.parametrize(
    ("file", "make"), [("commands.md", commands), ("recipe.md", recipe), ("inventory.md", inventory)]
)
def test_the_page_is_what_the_code_says(file: str, make: Any) -> None:
    page = make()
    if os.environ.get("OVERSPAN_ACCEPT"):
        (DOCS / file).write_text(page)
    assert (DOCS / file).read_text() == page


def test_the_example_of_a_sweep_runs_where_it_says(tmp_path: Path) -> None:
    (example, *_) = re.findall(r"```yaml\n(.*?)```", (DOCS / "sweep.md").read_text(), re.DOTALL)
    file = tmp_path / "ladder.yaml"
    file.write_text(example)
    assert len(matrix_of(str(file), None, to_start=False).points) == 8


def test_the_commands_of_the_guide_can_be_planned_on_the_example_of_slurm(tmp_path: Path) -> None:
    rack = next(each for each in re.findall(r"```yaml\n(.*?)```", by_hand("inventory.md"), re.DOTALL) if "rack" in each)
    file = tmp_path / "rack.yaml"
    file.write_text(rack)
    settings = re.findall(r"up smollm2-135m --on rack\.yaml(?: --set '([^']+)')?`", (DOCS / "guide.md").read_text())
    assert len(settings) == 2
    for setting in settings:
        plan_of(Wanted("smollm2-135m", str(file), (setting,) if setting else ()), to_start=False)


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
