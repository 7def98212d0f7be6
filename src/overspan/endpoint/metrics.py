"""The one reader of `/metrics`: Prometheus text, of which it takes what an engine's names ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import httpx

from overspan.endpoint.client import NoAnswer, body_of
from overspan.endpoint.metric_names import MetricNames
from overspan.schema.secrets import Secret, authorization

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

MOST_BYTES: Final = 8 << 20
"""A page is far smaller (150 kB from vLLM 0.32 with one engine)."""
LONGEST_S: Final = 30.0
"""A page is there within milliseconds."""
_LONGEST_LINE: Final = 64 << 10

Metrics = dict[str, float]
"""What a page says at one moment, by Overspan's own names."""


def parse_metrics(page: str, names: MetricNames) -> Metrics:
    """The metrics of a Prometheus page that an engine's names ask for. What cannot be read is left out.

    Args:
        page: the text exposition format, such as `vllm:num_requests_running{engine="0"} 3.0`.
        names: of the engine that answers.
    """
    summed, shares = {**names.gauges, **names.counters}, dict(names.shares)
    found: Metrics = {}
    counted: dict[str, int] = {}
    for sample in _samples(page, (*summed, *shares, *names.labels)):
        name = sample.name.removesuffix("_total")
        label, labelled = names.labels.get(name, ("", ""))
        ours = summed.get(name) or shares.get(name) or labelled
        value = _number(sample.labels.get(label)) if labelled else float(sample.value)
        if not ours or not math.isfinite(value):
            continue
        before = found.get(ours, 0.0)
        found[ours] = max(before, value) if labelled else before + value
        counted[ours] = counted.get(ours, 0) + 1
    for ours in {ours for ours in shares.values() if ours in found}:
        found[ours] /= counted[ours]
    return found


def _samples(page: str, wanted: tuple[str, ...]) -> Iterator[Sample]:
    # Only the lines that are wanted are parsed: the parser takes 0.3 s for a page of 2 MB, and gives up a whole page
    # for one line that is wrong.
    from prometheus_client.parser import text_string_to_metric_families

    for line in page.split("\n"):
        if line.startswith(wanted) and len(line) <= _LONGEST_LINE:
            try:
                families = list(text_string_to_metric_families(line))
            except (ValueError, IndexError):
                continue
            yield from (sample for family in families for sample in family.samples)


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def read_metrics(http: httpx.Client, root: str, names: MetricNames, api_key: Secret | None = None) -> Metrics:
    """What a server's `/metrics` says now.

    Args:
        http: asks, with its timeout and headers.
        root: the server's address, with or without the API's `/v1`.
        names: of the engine that answers.
        api_key: where `http` was not given it.

    Raises:
        NoAnswer: it does not answer, or not with a page that ends.
    """
    url = root.rstrip("/").removesuffix("/v1") + "/metrics"
    try:
        with http.stream("GET", url, headers=authorization(api_key)) as reply:
            page = b"".join(body_of(reply, url, most_bytes=MOST_BYTES, longest_s=LONGEST_S))
    except httpx.HTTPError as error:
        raise NoAnswer(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    if reply.status_code != 200:
        raise NoAnswer(f"{url} answered HTTP {reply.status_code}")
    return parse_metrics(page.decode(errors="replace"), names)
