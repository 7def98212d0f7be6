"""requests-<level>.jsonl: every request of a point, one line each: what was sent, what came when, how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from overspan.bench.metrics import NS_PER_MS, Times
from overspan.bench.stream import Stream
from overspan.schema.errors import RunDamaged
from overspan.schema.reading import json_of, opened
from overspan.schema.workload import AnsweredRequest


def write_requests(path: Path, streams: Sequence[Stream], started_ns: int) -> None:
    """Write one line a request, in the order that they were made. See `request_lines`."""
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(request_lines(streams, started_ns))


def request_lines(streams: Sequence[Stream], started_ns: int) -> Iterator[str]:
    """The lines, with their ends.

    `*_at_ms` are milliseconds from the point's start; the others are the request's latencies from its actual send.
    """
    for stream in sorted(streams, key=lambda stream: stream.index):
        yield json.dumps(_line(stream, started_ns)) + "\n"


def requests_in(path: Path) -> Iterator[AnsweredRequest | None]:
    """Each request of a requests-<level>.jsonl, None for one that failed.

    Raises:
        RunDamaged: a line is no request; names it.
        InputError: it is no file.
    """
    with opened(path) as file, TextIOWrapper(BufferedReader(file), "utf-8", "replace") as lines:
        yield from read_requests(lines, str(path))


def read_requests(lines: Iterable[str], where: str) -> Iterator[AnsweredRequest | None]:
    """Each request of a point, None for one that failed.

    Args:
        lines: of a requests-<level>.jsonl.
        where: the file, for errors.

    Raises:
        RunDamaged: a line is no request; names it.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json_of(line)
            yield AnsweredRequest.model_validate(request) if request["ok"] else None
        except (KeyError, TypeError, ValueError) as error:
            raise RunDamaged(
                f"{where}, line {number}: not a request of a bench",
                quote=line.strip()[:200],
                next="run the bench again",
            ) from error


def _line(stream: Stream, started_ns: int) -> dict[str, Any]:
    def since(at_ns: int) -> float | None:
        return round((at_ns - started_ns) / NS_PER_MS, 4) if at_ns else None

    stamps = stream.stamps
    return {
        "index": stream.index,
        "user": stream.user,
        "ok": stream.error is None,
        **(_latencies(Times.of(stream)) if stream.error is None else {}),
        "intended_at_ms": since(stream.intended_ns),
        "send_at_ms": since(stream.send_ns),
        "first_token_at_ms": since(stamps[0]) if stamps else None,
        "last_token_at_ms": since(stamps[-1]) if stamps else None,
        "end_at_ms": since(stream.end_ns),
        "input_tokens": stream.input_tokens,
        "output_tokens": stream.output_tokens,
        "chunks": len(stamps),
        "first_chunk_tokens": stream.first_chunk_tokens if stamps else None,
        "finish_reason": stream.finish,
        "retried": stream.retried,
        "error": stream.error,
        "detail": stream.detail,
    }


def _latencies(times: Times) -> dict[str, Any]:
    return {
        "ttft_ms": _rounded(times.ttft_ms),
        "tpot_ms": _rounded(times.tpot_ms),
        "e2e_ms": _rounded(times.e2e_ms),
        "itl_ms": [_rounded(gap) for gap in times.itl_ms],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
