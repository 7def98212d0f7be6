"""`overspan prune`."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from typing import Any, cast

import click

from overspan.cli.options import AS_JSON
from overspan.cli.output import document, say, table
from overspan.runs.prune import ALL, Prunable, What, prunable, remove
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.units import count, size

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Age(click.ParamType):  # type: ignore[type-arg]  # click 8.3 has no argument for it
    """A time such as 12h, 30d or 4w."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The time."""
        found = re.fullmatch(r"(\d{1,5})([mhdw])", value)
        if found is None:
            self.fail(f"{value!r} is no age: expected a number and m, h, d or w, e.g. 30d.", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _kinds(ctx: click.Context, param: click.Parameter, value: str) -> list[What]:
    kinds = list(dict.fromkeys(value.split(",")))
    if unknown := [kind for kind in kinds if kind not in ALL]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(ALL)}.", ctx, param)
    return cast("list[What]", kinds)


@click.command()
@click.option(
    "--older-than", metavar="AGE", type=Age(), default="30d", help="Only what was not used for this time: 12h, 30d, 4w."
)
@click.option(
    "--what", metavar="KINDS", default=",".join(ALL), callback=_kinds, help="Kinds to delete, separated by commas."
)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def prune(older_than: timedelta, what: list[What], dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete ended runs, twins, synthetic weights and engines of older versions that were not used for a long time.

    What is running or in use stays. So does a run with something left on a host: `overspan stop RUN` ends that first.
    An engine of this version stays, too: `overspan engine remove NAME` deletes it.
    """
    found = prunable(what, older_than)
    if not as_json and found:
        rows = [[each.what, each.name, f"{each.last_used:%Y-%m-%d}", size(each.size_bytes)] for each in found]
        click.echo(table(["what", "name", "last used", "size"], rows, names=(1,)))
    total = f"{count(len(found), 'folder')}, {size(sum(each.size_bytes for each in found))}"
    if found and not (dry_run or yes):
        if not sys.stdin.isatty():
            raise InputError(
                "prune asks before it deletes, and this is not a terminal", next="add --yes, or look with --dry-run"
            )
        click.confirm(f"Delete {total}?", abort=True, err=True)
    kept = {} if dry_run else _delete(found)
    gone = [each for each in found if str(each.path) not in kept]
    if as_json:
        document({"dry_run": dry_run, "pruned": [each.model_dump(mode="json") for each in gone], "kept": kept})
    else:
        say(f"would delete {total}" if dry_run else f"deleted {count(len(gone), 'folder')} of {total}")
    return OverspanError.exit_code if kept else 0


def _delete(found: list[Prunable]) -> dict[str, str]:
    """Delete each; those that cannot be deleted, with the reason."""
    kept = {}
    for each in found:
        try:
            remove(each)
        except (OverspanError, OSError) as error:
            kept[str(each.path)] = str(error)
            say(f"{each.path} stays: {error}")
    return kept
