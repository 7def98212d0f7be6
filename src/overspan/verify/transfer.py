"""Prefill and decode apart: every worker is registered, and a real request's cache went from one to the other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from overspan.endpoint.client import Client, NoAnswer, http_client
from overspan.endpoint.metrics import read_metrics
from overspan.engines.vllm_metrics import VLLM_METRICS
from overspan.schema.finding import Evidence, Finding

PREFIX = "disagg."
INSTANCES, TRANSFER = f"{PREFIX}instances", f"{PREFIX}transfer"

_WORDS = 120
"""Words of the request: many blocks of any size that vLLM takes by default."""

_TIMEOUT_S = 60.0

_VOCABULARY = tuple(re.findall(r"\w+", "red oak sea ten sun map cup key ice fox net jar owl pen hat bus cow egg"))


def check(client: Client, root: str, workers: Mapping[str, Sequence[str]], *, dynamo: bool = False) -> list[Finding]:
    """Both findings.

    Args:
        client: of the endpoint.
        root: the address of the router or of Dynamo's frontend.
        workers: where the workers' metrics are, by role, `prefill` and `decode`.
        dynamo: whether `root` is Dynamo's frontend.
    """
    expected = {role: len(urls) for role, urls in workers.items()}
    found = instances(root, expected, "/health" if dynamo else "/workers", registered if dynamo else counted)
    return [found, transfer(client, workers["decode"])]


def counted(answer: Any, role: str) -> int:
    """Workers of a role that vLLM's router knows. Source: vllm-router 0.1.17, GET /workers."""
    return int(answer["stats"][f"{role}_count"])


def registered(answer: Any, role: str) -> int:
    """Workers of a role that Dynamo's frontend knows: each registers one endpoint `generate`, decode as `backend`.

    Source: Dynamo 1.6.1, lib/llm/src/http/service/health.rs and dynamo/vllm/args.py.
    """
    component = {"decode": "backend"}.get(role, role)
    return sum((each["component"], each["endpoint"]) == (component, "generate") for each in answer["instances"])


def instances(root: str, expected: Mapping[str, int], path: str, count: Callable[[Any, str], int]) -> Finding:
    """Whether as many workers of each role are known as the plan has."""
    url = f"{root}{path}"
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).json()
        found = {role: count(answer, role) for role in expected}
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


def transfer(client: Client, decode: Sequence[str]) -> Finding:
    """Whether a decode worker took over a prompt that nobody has seen before.

    vLLM counts tokens that came over its connector as hits of the external prefix cache (vllm/v1/metrics/loggers.py).
    """
    prompt = " ".join(secrets.choice(_VOCABULARY) for _ in range(_WORDS))
    try:
        with http_client(None, _TIMEOUT_S) as http:
            before = [read_metrics(http, url, VLLM_METRICS) for url in decode]
            client.chat(f"Repeat the last word: {prompt}", max_tokens=4)
            after = [read_metrics(http, url, VLLM_METRICS) for url in decode]
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
