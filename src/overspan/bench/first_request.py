"""Is it an OpenAI endpoint, does it serve the model, and what does it accept? Asked before any load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from overspan.bench.expected import Pace
from overspan.bench.lengths import parse_lengths
from overspan.bench.load import ClosedLoop
from overspan.bench.loop import Loop
from overspan.bench.prompts import EXTRAS, ApiKind, Bodies, Synthetic, path_of
from overspan.bench.stream import Stream
from overspan.catalog.words import WORDS
from overspan.endpoint.identify import leads_away
from overspan.endpoint.moved import KEEP_THE_METHOD, REDIRECTS, same_server
from overspan.endpoint.target import EndpointTarget
from overspan.schema.errors import InputError
from overspan.schema.workload import Workload

_TIMEOUT_S: Final = 20.0
_LEAST: Final = 16
"""Fewer words than this make prompts that are too much alike."""

Count = Callable[[str], int]
"""Tokens of a text, without special ones."""
_REDIRECTED: Final = {f"http_{status}": status for status in REDIRECTS}
_REFUSES_FIELDS: Final = ("http_400", "http_422")
BREAKS_ANSWERS: Final = ("error_event", "broken_stream", "no_tokens", "http_500")
"""How a server fails that cannot go on behind the end of a text."""


@dataclass(frozen=True)
class Accepted:
    """What the server accepts, found by asking.

    Attributes:
        extras: optional fields of the body that it takes.
        usage: it counts tokens at the end of a stream.
        overhead_tokens: what the server adds to a prompt (a chat template), None where it does not count.
        words: those that its own tokenizer gives one token each; None where it does not tell.
        pace: of the request that was answered.
        moved: where the same server sent the request on to, so that the load is not redirected; None: nowhere.
    """

    extras: dict[str, Any]
    usage: bool
    overhead_tokens: int | None
    notes: list[str]
    words: tuple[str, ...] | None = None
    pace: Pace = field(default_factory=Pace)
    moved: EndpointTarget | None = None


def find_accepted(
    target: EndpointTarget, endpoint: ApiKind, model: str, workload: Workload, words: int, *, tokens: int = 2
) -> Accepted:
    """Send one request of the load's form and see which optional fields the server takes and how it counts.

    Args:
        words: length of its prompt, beside the shared prefix.
        tokens: length of its answer.

    Raises:
        InputError: it answers none of them with a token; quotes what it said.
    """
    notes: list[str] = []
    last: Stream | None = None
    failed: Stream | None = None
    moved: EndpointTarget | None = None
    seed = f"{workload.seed}/probe"
    prefix = workload.shared_prefix_tokens
    exact = exact_words(target, model, WORDS)
    richest = EXTRAS if workload.ignore_eos else EXTRAS[1:]
    for name, extras, usage in [*((name, extras, True) for name, extras in richest), ("no usage", {}, False)]:
        bodies = Bodies(endpoint, model, seed=seed, extras=extras, usage=usage, words=exact or WORDS)
        lengths = parse_lengths(str(words)), parse_lengths(str(tokens))
        asks = Synthetic(
            bodies, seed=seed, inputs=lengths[0], outputs=lengths[1], prefix_words=prefix, overhead=-prefix
        )
        last = one_request(target, endpoint, asks.body(0, 0), workload.timeout_s)
        if last.error in _REDIRECTED:
            target = moved = _moved(target, path_of(endpoint), last)
            last = one_request(target, endpoint, asks.body(0, 0), workload.timeout_s)
        if last.error is None:
            if failed is not None:
                failed.detail = target.hide(failed.detail)
                notes.append(fails_with_ignore_eos(failed, "it is left out"))
            elif name != richest[0][0]:
                notes.append(f"the server refuses {richest[0][0]}; asked with {name}")
            if not workload.ignore_eos:
                notes.append("answers end where the model ends them (--no-ignore-eos): they may be shorter than asked")
            elif "ignore_eos" not in extras:
                notes.append("the server cannot ignore the end of text: answers may be shorter than asked")
            return replace(_accepted(extras, last, words + prefix, notes), words=exact, moved=moved)
        if "ignore_eos" in extras and last.error in BREAKS_ANSWERS:
            failed = last
        elif last.error not in _REFUSES_FIELDS:
            break
    raise _cannot(target, path_of(endpoint), failed or last)


def _moved(target: EndpointTarget, path: str, stream: Stream) -> EndpointTarget:
    """Where a redirect leads, on the same server alone.

    Raises:
        InputError: it leads elsewhere, or makes a POST a GET; names where.
    """
    url, status, location = f"{target.base_url}{path}", _REDIRECTED[str(stream.error)], stream.detail or ""
    to = same_server(url, location) if status in KEEP_THE_METHOD else None
    bare = (to or "").rstrip("/")
    if to is None or not bare.endswith(path) or urlsplit(to).scheme != urlsplit(url).scheme:
        raise leads_away(url, status, location)
    return replace(target, base_url=bare.removesuffix(path), tail="/" if to.endswith("/") else "")


def fails_with_ignore_eos(failed: Stream, so: str) -> str:
    """What to say where the server's answers fail with ignore_eos and do not without it."""
    said = f": {failed.detail[:200]}" if failed.detail else ""
    return f"answers fail with ignore_eos and do not without it; {so} ({failed.error}{said})"


def _accepted(extras: dict[str, Any], stream: Stream, words: int, notes: list[str]) -> Accepted:
    counted = stream.input_tokens
    if stream.usage is None:
        notes.append("the server counts no tokens: output tokens are chunks with text, input tokens unknown")
    overhead = None if counted is None else counted - words
    return Accepted(extras, stream.usage is not None, overhead, notes, pace=Pace.of(stream))


def _cannot(target: EndpointTarget, path: str, stream: Stream | None) -> InputError:
    kind = stream.error if stream is not None else None
    hints = {
        "http_401": "set OVERSPAN_API_KEY and run it again",
        "http_404": "try --endpoint chat or --endpoint completions, or the URL that ends in /v1",
        "http_429": "the server limits requests: wait, or raise its limit",
        "timeout": "give more time with --timeout",
        "garbage": f"check that {target.base_url} is an OpenAI endpoint that streams",
    }
    log = "look at the server's log: overspan logs"
    # A server may parse its chats: what drawn weights answer in the Harmony format of gpt-oss is no message of it.
    log += "; --endpoint completions asks without the model's chat format" if path.endswith("/chat/completions") else ""
    return InputError(
        f"{target.base_url}{path} does not answer a first request: {kind}",
        quote=target.hide(stream.detail) if stream is not None else None,
        next=hints.get(kind or "", log),
    )


def one_request(target: EndpointTarget, endpoint: ApiKind, body: bytes, timeout_s: float) -> Stream:
    """Send one request through the load's own loop."""
    message = target.head(path_of(endpoint)) + str(len(body)).encode() + b"\r\n\r\n" + body
    return Loop(target, ClosedLoop(1, 1, lambda *_: message), timeout_s=timeout_s).run(whole=True)[0]


def length_notes(accepted: Accepted, shortest: int) -> list[str]:
    """What to say about the length of prompts.

    Args:
        shortest: the shortest prompt that is asked for, in tokens, the shared prefix left out.
    """
    if accepted.overhead_tokens is None:
        return ["input tokens are taken as words: the server does not count them"]
    if shortest <= accepted.overhead_tokens:
        return [f"the server adds {accepted.overhead_tokens} tokens to each prompt: none is shorter than one more"]
    if accepted.words is not None:
        return [f"prompts are exact: {len(accepted.words)} words that the server's own tokenizer gives one token each"]
    return ["prompts are words of one token each; their length was set by the server's count of a first request"]


class _NoTokenizer(Exception):
    """The server has no such endpoint, or answers it with something else."""


def exact_words(target: EndpointTarget, model: str, words: Sequence[str]) -> tuple[str, ...] | None:
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
