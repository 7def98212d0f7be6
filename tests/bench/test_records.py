"""requests-<level>.jsonl is read as it is written."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from overspan.bench.metrics import Times
from overspan.bench.records import read_requests, write_requests
from overspan.schema.errors import RunDamaged
from support.run_documents import OUTPUT_TOKENS, STARTED_NS, request_lines, streams


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = streams(4, 8, failed=2)
    write_requests(tmp_path / "requests-4.jsonl", made[::-1], STARTED_NS)
    with (tmp_path / "requests-4.jsonl").open() as lines:
        found = list(read_requests(lines, "here"))
    assert [request is None for request in found] == [False] * 6 + [True] * 2
    for stream, request in zip(made[:6], found[:6], strict=True):
        assert request is not None
        times = Times.of(stream)
        assert request.ttft_ms == pytest.approx(times.ttft_ms, abs=1e-4)
        assert request.tpot_ms == pytest.approx(times.tpot_ms, abs=1e-4)
        assert request.e2e_ms == pytest.approx(times.e2e_ms, abs=1e-4)
        assert request.itl_ms == pytest.approx(list(times.itl_ms), abs=1e-4)
        assert request.end_at_ms == pytest.approx((stream.end_ns - STARTED_NS) / 1e6, abs=1e-4)
        assert request.output_tokens == OUTPUT_TOKENS


def test_a_request_without_text_is_read(tmp_path: Path) -> None:
    silent = streams(1, 1)[0]
    silent.stamps = array("q")
    write_requests(tmp_path / "requests-1.jsonl", [silent], STARTED_NS)
    found = next(read_requests((tmp_path / "requests-1.jsonl").open(), "here"))
    assert found is not None
    assert (found.ttft_ms, found.tpot_ms, found.itl_ms, found.first_token_at_ms) == (None, None, [], None)


def test_what_a_server_said_damages_no_file() -> None:
    failed = streams(1, 1, failed=1)[0]
    failed.detail = "half a pair: \ud800, another end of a line: \u2028"
    line = json.dumps({**json.loads(request_lines(1, 1)[0]), "detail": failed.detail})
    assert next(read_requests([line], "here")) is not None


@pytest.mark.parametrize(
    "bad", ["{", "[1]", '{"ttft_ms": 1}', "null", '{"ok": true, "ttft_ms": "soon"}', '{"ok": true}']
)
def test_a_damaged_line_is_named(bad: str) -> None:
    with pytest.raises(RunDamaged) as caught:
        list(read_requests([*request_lines(1, 1), bad], "requests-4.jsonl"))
    assert "requests-4.jsonl, line 2" in caught.value.what
    assert caught.value.quote == bad
