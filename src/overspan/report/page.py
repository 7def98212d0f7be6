"""The page: one HTML file with everything in it. It loads nothing and, by its own policy, could not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from overspan import __version__
from overspan.report import figures, text, view
from overspan.report.documents import METRICS, RunDocuments
from overspan.schema import units
from overspan.schema.errors import InputError
from overspan.schema.printable import printable

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
    return render_page(
        "report.html.j2",
        charts,
        runs=runs,
        view=view,
        latency=latency,
        metrics=METRICS,
        levels=figures.levels_of(runs),
        chosen=figures.default_level(runs),
    )


def render_page(template: str, charts: Mapping[str, figures.Figure], **shown: Any) -> str:
    """One self-contained HTML file.

    Args:
        template: its name.
        charts: Plotly's JSON by the id of the place in the page.
        shown: what the template takes; all that it prints is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("overspan.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # What others said is text; markup is our own.
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    scripts = {"plotly": _plotly() if charts else "", "charts": _part("charts.js")}
    return environment.get_template(template).render(
        **shown,
        charts=charts,
        scripts=scripts,
        policy=_policy(scripts.values()),
        css=_part("report.css"),
        version=__version__,
        made_at=datetime.now(UTC),
    )


def _part(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # a third of a second, and only a page with charts needs it

    return str(get_plotlyjs())


def _policy(scripts: Iterable[str]) -> str:
    """A content security policy: only these scripts run, and nothing is ever fetched."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts if script]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
