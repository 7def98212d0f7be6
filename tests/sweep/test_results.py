"""What makes a point ok, what follows from its numbers, and the lines that hold it."""

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.schema.errors import RunDamaged
from overspan.schema.finding import Finding
from overspan.schema.point import PointResult
from overspan.schema.sweep import Constraints
from overspan.schema.workload import RequestCounts
from overspan.sweep.folder import MeasuredSweep, SweepFolder, read_results
from overspan.sweep.results import as_csv, derive, rows, why_not
from support.sweep_documents import a_sweep, measured

LADDER = a_sweep(failed=0, missing=0)
POINT = LADDER.points[0]


def counts(ok: int, failed: int, planned: int = 40, **errors: int) -> RequestCounts:
    return RequestCounts(planned=planned, ok=ok, failed=failed, errors=errors)


@pytest.mark.parametrize(
    ("changes", "share", "said"),
    [
        ({}, 0.0, ""),
        ({"requests": counts(39, 1, timeout=1)}, 0.0, "1 of 40 requests failed (timeout 1); the limit is 0.0%"),
        ({"requests": counts(39, 1, timeout=1)}, 0.025, ""),
        ({"requests": counts(38, 2, timeout=2)}, 0.025, "2 of 40 requests failed"),
        ({"requests": counts(0, 40, http_500=40)}, 0.99, "none of 40 requests succeeded (http_500 40)"),
        ({"requests": counts(30, 0)}, 0.0, "10 of 40 requests are not accounted for"),
        ({"output_tokens_per_s": 0.0}, 0.0, "no token was generated"),
        ({"output_tokens_per_s": -159.9}, 0.0, "no token was generated"),
        ({"output_tokens_per_s": None}, 0.0, "no token was generated"),
    ],
)
def test_what_is_not_ok(changes: dict[str, Any], share: float, said: str) -> None:
    seen = measured(POINT).with_(**changes)
    reason = why_not(seen, [], Constraints(failed_share=share))
    assert reason.startswith(said)
    assert bool(reason) == bool(said)


def test_a_failed_verification_is_not_ok_however_fast() -> None:
    wrong = Finding(rule="verify.burst", status="failed", cause="requests are mixed up")
    assert why_not(measured(POINT), [wrong], Constraints()) == "verification failed: requests are mixed up"
    skipped = Finding(rule="verify.burst", status="not_evaluated")
    assert why_not(measured(POINT), [skipped], Constraints()) == ""


def test_rates_are_over_used_reserved_and_each_role() -> None:
    seen = measured(POINT).with_(input_tokens_per_s=1200.0, output_tokens_per_s=2400.0, total_tokens_per_s=3600.0)
    wide = POINT.with_(gpus_reserved=24)
    found = derive(wide, seen)
    assert found.per_gpu == {"total": 300.0, "output": 200.0, "input": 100.0}
    assert found.per_gpu_reserved == {"total": 150.0, "output": 100.0, "input": 50.0}
    assert found.per_role == {"prefill": {"input": 300.0}, "decode": {"output": 300.0}}
    assert found.interactivity == pytest.approx(1e3 / (seen.tpot_ms.p50 or 0), rel=1e-4)
    assert found.predicted_to_measured["tpot_ms"] == pytest.approx(1 / 1.1 / 1.02, rel=1e-3)


def test_results_of_failed_points_are_written_and_read_as_before() -> None:
    """Without numbers `derived` is an empty object, with them it has the same keys in every release."""
    ended = LADDER.ended[0]
    line = json.loads(ended.model_dump_json())
    assert set(line["derived"]) == {
        "tokens_per_s", "per_gpu", "per_gpu_reserved", "per_role", "unit", "interactivity", "predicted_to_measured",
    }  # fmt: skip
    assert line["derived"]["per_role"].keys() == {"prefill", "decode"}
    assert list(line["derived"]["per_role"]["decode"]) == ["output"]
    assert PointResult.model_validate(line) == ended
    failed = ended.with_(measured=None, derived=None, state="failed")
    assert json.loads(failed.model_dump_json())["derived"] == {}
    assert PointResult.model_validate_json(failed.model_dump_json()) == failed


def test_a_table_has_a_row_a_point_and_the_same_columns_everywhere() -> None:
    table = rows(LADDER.ended)
    assert len(table) == 15
    assert {tuple(row) for row in table} == {tuple(table[0])}
    assert table[0]["prefill_layout"] == "DEP4"
    text = as_csv(LADDER.ended).splitlines()
    assert len(text) == 16
    assert text[0].startswith("id,sweep,scenario,isl,osl,topology")
    assert as_csv([]).strip() == ""


def test_other_line_ends_in_a_reason_end_no_line(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for reason in ("a\u2028b", "c\u0085d"):
        folder.add(LADDER.ended[0].with_(reason=reason))
    assert [result.reason for result in folder.results()] == ["a\u2028b", "c\u0085d"]


def test_half_a_line_is_no_result_and_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    ladder: MeasuredSweep = a_sweep(failed=1, missing=0)
    folder = SweepFolder(tmp_path)
    for result in ladder.ended:
        folder.add(result)
    file = tmp_path / "results.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert len(folder.results()) == 14
    measured = folder.measured(ladder.points)
    assert [measured.state(point) for point in ladder.points] == ["failed", *["ok"] * 13, "missing"]
    file.write_bytes(whole.replace(b'"state"', b'"sttate"', 1))
    with pytest.raises(RunDamaged, match=r"results.jsonl, line 1 is no result"):
        read_results(file)
