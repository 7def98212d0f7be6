"""Prefill and decode apart: every worker is registered, and a real request's cache went from one to the other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence

import httpx

from overspan.endpoint.client import Client, NoAnswer, http_client
from overspan.endpoint.metrics import read_metrics
from overspan.engines.base import Engine
from overspan.schema.finding import Evidence, Finding

PREFIX = "disagg."
INSTANCES, TRANSFER = f"{PREFIX}instances", f"{PREFIX}transfer"

_WORDS = 120
"""Words of the request: many blocks of any size that vLLM takes by default."""

_TIMEOUT_S = 60.0

_VOCABULARY = tuple(re.findall(r"\w+", "red oak sea ten sun map cup key ice fox net jar owl pen hat bus cow egg"))


def check(client: Client, root: str, workers: Mapping[str, Sequence[str]], engine: Engine) -> list[Finding]:
    """Both findings.

    Args:
        client: of the endpoint.
        root: the address of what answers requests.
        workers: where the workers' metrics are, by role, `prefill` and `decode`.
        engine: knows its workers, and how it counts tokens that came from another.
    """
    expected = {role: len(urls) for role, urls in workers.items()}
    return [instances(root, expected, engine), transfer(client, workers["decode"], engine)]


def instances(root: str, expected: Mapping[str, int], engine: Engine) -> Finding:
    """Whether as many workers of each role are known as the plan has."""
    url = f"{root}{engine.workers_path}"
    try:
        with http_client(root, None, _TIMEOUT_S) as http:
            answer = http.get(engine.workers_path).json()
        found = {role: engine.registered(answer, role) for role in expected}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return Finding(rule=INSTANCES, status="failed", cause=f"{url} does not tell its workers: {error!r}")
    said = ", ".join(f"{count} of {expected[role]} {role}" for role, count in found.items())
    passed = found == dict(expected)
    return Finding(
        rule=INSTANCES,
        status="passed" if passed else "failed",
        evidence=Evidence(text=f"registered: {said}", file=url),
        cause=None if passed else f"not every worker is registered: {said}",
    )


def transfer(client: Client, decode: Sequence[str], engine: Engine) -> Finding:
    """Whether a decode worker took over a prompt that nobody has seen before."""
    prompt = " ".join(secrets.choice(_VOCABULARY) for _ in range(_WORDS))
    try:
        with http_client(decode[0], None, _TIMEOUT_S) as http:
            before = [read_metrics(http, url, engine.metrics) for url in decode]
            client.chat(f"Repeat the last word: {prompt}", max_tokens=4)
            after = [read_metrics(http, url, engine.metrics) for url in decode]
    except NoAnswer as error:
        return Finding(rule=TRANSFER, status="failed", cause=f"a request through both roles failed: {error.what}")
    tokens = sum(page.get("transferred_tokens", 0.0) for page in after)
    tokens -= sum(page.get("transferred_tokens", 0.0) for page in before)
    block = after[0].get("block_tokens")
    if tokens <= 0:
        cause = "no cache was transferred: the decode worker computed the prompt itself"
        return Finding(rule=TRANSFER, status="failed", cause=cause, fix="look at kv_transfer_config of both roles")
    blocks = f", {tokens // block:.0f} blocks of {block:.0f}" if block else ""
    return Finding(
        rule=TRANSFER,
        status="passed",
        evidence=Evidence(text=f"a decode worker took over {tokens:.0f} tokens{blocks}", file=f"{decode[0]}/metrics"),
    )
