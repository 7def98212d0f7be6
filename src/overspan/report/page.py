"""The page: one HTML file with everything in it. It loads nothing and, by its own policy, could not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from overspan import __version__
from overspan.report import figures, predicted, text, view
from overspan.report.documents import METRICS, RunDocuments
from overspan.schema import units
from overspan.schema.errors import InputError

_FILTERS = {
    "plain": text.plain,
    "size": units.size,
    "rate": units.link_rate,
    "ranges": text.ranges,
    "command": text.command,
    "flat": view.flat,
    "details": view.details,
    "ordered": view.ordered,
    "since": view.since,
    "stated": lambda client: client.model_dump(exclude={"reasons"}),
}


def render(*runs: RunDocuments) -> str:
    """The report of one run, or of several laid over each other.

    Raises:
        InputError: no run was given.
    """
    if not runs:
        raise InputError("a report needs a run", next="overspan list")
    latency = figures.latency_figures(runs)
    throughput = figures.throughput_figure(runs)
    charts = {**({"throughput": throughput} if throughput else {}), **latency}
    scripts = {"plotly": plotly_script() if charts else "", "charts": part("charts.js")}
    page = environment().get_template("report.html.j2")
    return page.render(
        runs=runs,
        view=view,
        charts=charts,
        latency=latency,
        metrics=METRICS,
        predicted=predicted.rows,
        heads=predicted.HEADS,
        levels=figures.levels_of(runs),
        scripts=scripts,
        policy=policy(scripts.values()),
        css=part("report.css"),
        version=__version__,
        made_at=datetime.now(UTC),
    )


def environment() -> jinja2.Environment:
    """Where the pages' templates are; all that they print is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("overspan.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals["load_of"] = text.load_of
    return environment


def part(name: str) -> str:
    """A style sheet or script of the pages."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Plotly's own script, to stand in the page."""
    from plotly.offline import get_plotlyjs  # a third of a second, and only a page with charts needs it

    script = get_plotlyjs()
    if not isinstance(script, str):
        raise TypeError("plotly gave no script")
    return script


def policy(scripts: Iterable[str]) -> str:
    """A content security policy: only these scripts run, and nothing is ever fetched."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts if script)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
