"""The server's own tokenizer, where it has an endpoint for it: which words of the prompts are one token each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from overspan.endpoint.target import Target

_TIMEOUT_S: Final = 20.0
_LEAST: Final = 16
"""Fewer words than this make prompts that are too much alike."""

Count = Callable[[str], int]
"""Tokens of a text, without special ones."""


class _NoTokenizer(Exception):
    """The server has no such endpoint, or answers it with something else."""


def exact_words(target: Target, model: str, words: Sequence[str]) -> tuple[str, ...] | None:
    """The words that are one token each for the server at hand; None where it does not tell, or too few are.

    vLLM answers `POST /tokenize` beside `/v1` (vllm/entrypoints/serve/tokenize). A server that has it says to a GET
    that the method is wrong; nothing is posted to one that says anything else.
    """
    url = urlsplit(target.base_url)
    address = urlunsplit((url.scheme, url.netloc, url.path.removesuffix("/v1") + "/tokenize", "", ""))
    with target.http_client(_TIMEOUT_S) as client:

        def count(text: str) -> int:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
            try:
                reply = client.post(address, json=body)
                found = reply.json()["count"] if reply.status_code == 200 else None
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                raise _NoTokenizer from None
            if not isinstance(found, int):
                raise _NoTokenizer
            return found

        try:
            if client.get(address).status_code != httpx.codes.METHOD_NOT_ALLOWED:
                return None
            kept = single(words, count)
        except (_NoTokenizer, httpx.HTTPError):
            return None
    return tuple(kept) if len(kept) >= _LEAST else None


def single(words: Sequence[str], count: Count) -> list[str]:
    """The words that are one token behind a space and one at the start of a line, found by halving."""
    if not words:
        return []
    spaced = count("".join(f" {word}" for word in words))
    # A line's end is a token of its own, so a word behind it stands as at the start of a prompt.
    lines = count("\n".join(words))
    if spaced == len(words) and lines == 2 * len(words) - 1:
        return list(words)
    if len(words) == 1:
        return []
    half = len(words) // 2
    return single(words[:half], count) + single(words[half:], count)
