"""`overspan compare`."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON, MEASURED
from overspan.cli.output import document, say, table, terminal_columns
from overspan.schema.errors import InputError
from overspan.sweep.compare import MetricChange, requests_of
from overspan.sweep.compare import compare as compared


@click.command()
@click.argument("first", type=MEASURED)
@click.argument("second", type=MEASURED)
@AS_JSON
def compare(first: str, second: str, as_json: bool) -> None:
    """Show how SECOND differs from FIRST. Both are runs or sweeps. A 95 % interval separates differences and noise."""
    one, two = requests_of(first), requests_of(second)
    found = compared(one.points, two.points)
    for each in (one, two):
        if each.points and not any(each.points.values()):
            asked = sum(each.failed.values())
            why = f"{each.name} has no request that ended well ({asked} failed): there is nothing to compare"
            raise InputError(why, next=f"overspan report {each.name} shows why they failed")
    if not found:
        held = "; ".join(f"{each.name}: {', '.join(each.points) or 'none'}" for each in (one, two))
        raise InputError(f"{one.name} and {two.name} have no measured point in common", next=held)
    apart = [*one.points.keys() ^ two.points.keys()]
    if as_json:
        document(
            {"first": one.name, "second": two.name, "differences": _plain(found), "only_in_one": sorted(apart)}
            | {"failed_requests": {"first": one.failed, "second": two.failed}}
            | {"benches": {"first": one.benches, "second": two.benches}}
        )
        return
    rows = [_row(each) for each in found]
    text, room = _table(one.name, two.name, rows), terminal_columns()
    if room and (one.name == two.name or max(map(len, text.splitlines())) > room):
        text = f"first:  {one.name}\nsecond: {two.name}\n{_table('first', 'second', rows)}"
    click.echo(text)
    real = sum(each.verdict in ("lower", "higher") for each in found)
    say(f"{real} of {len(found)} differ by more than noise")
    say("an interval holds for these two loads, not for another day, another machine or another seed")
    for each in (one, two):
        if each.benches:
            say(f"note: {each.name}: {each.benches}")
        for point, failed in each.failed.items():
            asked = failed + len(each.points[point])
            say(f"note: {failed} of {asked} requests of {each.name} at {point} failed: left out")
    for name in sorted(apart):
        say(f"note: {name} is in one of them only")


def _table(first: str, second: str, rows: list[list[str]]) -> str:
    return table(["point", "metric", first, second, "change", "95 % interval", "verdict"], rows)


def _plain(found: list[MetricChange]) -> list[dict[str, object]]:
    return [each.model_dump(mode="json") for each in found]


def _row(each: MetricChange) -> list[str]:
    interval = "-" if each.low is None or each.high is None else f"{each.low:+.1%} to {each.high:+.1%}"
    return [
        each.point,
        each.metric,
        f"{each.first:.2f}",
        f"{each.second:.2f}",
        f"{each.change:+.1%}",
        interval,
        each.verdict,
    ]
