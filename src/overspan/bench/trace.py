"""Requests from a file: Mooncake's traces (times, lengths, block hashes) and ShareGPT's conversations (texts)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overspan.schema.errors import InputError
from overspan.schema.reading import MOST_JSON, read_text

MOONCAKE_BLOCK_TOKENS: Final = 512
"""Tokens that one hash id stands for. Source: kvcache-ai/Mooncake, FAST25-release/traces: blocks of 512."""

TOKENS_PER_WORD: Final = 4 / 3
"""Of English text, to turn the length of a recorded answer into tokens. Source: OpenAI's help page on tokens."""

_FORMS: Final = (
    'a JSON line a request {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}, '
    'or {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}, a JSON list or lines'
)


@dataclass(frozen=True)
class TraceRequest:
    """One request of a trace. `text` is None where the prompt is made of blocks."""

    at_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()
    block_tokens: int = MOONCAKE_BLOCK_TOKENS
    text: str | None = None


def read_trace(path: Path) -> tuple[list[TraceRequest], bool]:
    """The requests of a trace in the order of their times, and whether it has times.

    Raises:
        InputError: the file cannot be read, or an entry is wrong; names the line.
    """
    try:
        text = read_text(path, most=MOST_JSON, encoding="utf-8-sig")
    except InputError as error:
        raise InputError(f"the trace cannot be read: {error.what}", next=error.next) from None
    first = text.lstrip().partition("\n")[0]
    talks = first.startswith("[") or '"conversations"' in first
    entries, timed = (_sharegpt(text, path), False) if talks else (_mooncake(text, path), True)
    if not entries:
        raise InputError(f"the trace {path} holds no request", next=f"it is {_FORMS}")
    return sorted(entries, key=lambda entry: entry.at_s), timed


def _mooncake(text: str, path: Path) -> list[TraceRequest]:
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(_mooncake_entry(json.loads(line)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"{path}, line {number} is not a request of a trace: {type(error).__name__} {error}"
            raise InputError(what, quote=line[:200], next=f"a trace is {_FORMS}") from None
    return entries


def _mooncake_entry(item: dict[str, Any]) -> TraceRequest:
    at, given, asked = float(item["timestamp"]) / 1000, int(item["input_length"]), int(item["output_length"])
    hashes = tuple(int(block) for block in item.get("hash_ids", ()))
    if not math.isfinite(at) or at < 0 or given < 1 or asked < 1:
        raise ValueError("times are from 0, lengths from 1")
    return TraceRequest(at, given, asked, hashes)


def _sharegpt(text: str, path: Path) -> list[TraceRequest]:
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        items = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise InputError(f"the trace {path} is not JSON: {error}", next=f"a trace is {_FORMS}") from None
    entries = []
    for number, item in enumerate(items, 1):
        try:
            turns = item["conversations"]
            if len(turns) < 2:
                continue
            question, answer = str(turns[0]["value"]), str(turns[1]["value"])
        except (KeyError, TypeError, IndexError):
            raise InputError(f"{path}, entry {number} is not a conversation", next=f"a trace is {_FORMS}") from None
        if question.strip() and answer.strip():
            given, asked = (max(1, round(len(text.split()) * TOKENS_PER_WORD)) for text in (question, answer))
            entries.append(TraceRequest(0.0, given, asked, text=question))
    return entries
