"""A fleet fed by the predictor: conserved, monotone, and told in one document."""

import json
from typing import Any

import pytest

from overspan.cli.main import main
from overspan.planner import inputs, rank, scale
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.topology import parse_topology
from overspan.schema.workload import Demand

MODEL = "llama-3.3-70b"


def found(**asked: Any) -> dict[str, Any]:
    base = {"name": MODEL, "gpu": "h200", "fleet": 64, "topology": "tp8", "isl": 512, "osl": 128, "slo": "ttft=2000"}
    return scale.scale(scale.FleetQuestion(**{**base, **asked})).as_json()


def test_a_nearly_idle_fleet_gives_what_one_user_is_promised() -> None:
    seen = found(rate_per_s=0.5, requests=300)
    recipe, model = inputs.resolve(MODEL)
    alone = rank.predict_on(
        model, recipe, parse_topology("tp8").roles[0].layout, inputs.what_if("h200", 1, 8),
        Demand(isl=512, osl=128, concurrency=1),
    )  # fmt: skip
    assert seen["tpot_ms"]["mean"] == pytest.approx(alone.tpot_ms, rel=0.02)
    assert seen["ttft_ms"]["p50"] == pytest.approx(alone.ttft_ms, rel=0.1)
    assert (seen["units"], seen["gpus_used"], seen["attainment"]) == (8, 64, 1.0)


def test_more_load_is_slower_and_cheaper_until_it_saturates() -> None:
    quiet, busy, flooded = (found(rate_per_s=rate, requests=1500) for rate in (10, 100, 20_000))
    assert quiet["tpot_ms"]["mean"] < busy["tpot_ms"]["mean"]
    key = "gpu_hours_per_million_output_tokens"
    assert quiet[key] == pytest.approx(10 * busy[key], rel=0.01)
    assert not busy["saturated"]
    assert flooded["saturated"]
    assert flooded["attainment"] < busy["attainment"] == 1.0


def test_ten_thousand_gpus_and_the_highest_rate_that_keeps_the_limits() -> None:
    limits = {"slo": "ttft=1000,tpot=25", "fleet": 10_000, "gpu": "h200", "osl": 32}
    best = found(**limits, price=2.0)
    assert best["units"] == 1250
    assert best["attainment"] >= 0.99
    assert best["price_per_million_output_tokens"] == 2 * best["gpu_hours_per_million_output_tokens"]
    assert found(**{**limits, "fleet": 80}, rate_per_s=best["rate_per_s"] * 1.3 * 80 / 10_000)["attainment"] < 0.99


def test_prefill_workers_that_are_too_few_hold_everybody_up() -> None:
    one = found(topology="1P1D TP4->TP4", fleet=8, rate_per_s=1, isl=4096, requests=800)
    two = found(topology="2P1D TP4->TP4", fleet=12, rate_per_s=1, isl=4096, requests=800)
    assert one["prefill_busy"] > 1.5 * two["prefill_busy"]
    assert one["ttft_ms"]["mean"] > two["ttft_ms"]["mean"]
    assert any("nothing disaggregated was measured" in note for note in one["notes"])


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"slo": None}, InputError, "give --rate, or --slo"),
        ({"fleet": 4, "rate_per_s": 1}, InputError, "TP8 needs 8 GPUs, the fleet has 4"),
        ({"slo": "tpot=0.1"}, InputError, "cannot keep TPOT 0.1 ms at any rate; nearly idle it gives"),
        ({"topology": "tp1", "gpu": "h100", "rate_per_s": 1}, PlanRefused, "tp1 cannot run"),
        ({"topology": "TP", "rate_per_s": 1}, InputError, "topology 'TP'"),
        ({"gpu": "h2000", "rate_per_s": 1}, InputError, "unknown hardware"),
    ],
)
def test_wrong_questions(asked: dict[str, Any], error: type[InputError], said: str) -> None:
    with pytest.raises(error) as caught:
        found(**asked)
    assert said in str(caught.value.what)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", MODEL, "--gpu", "h200", "--fleet", "64", "--topology", "tp8", "--rate", "10", "--requests"]
    with pytest.raises(SystemExit):
        main([*words, "200", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["topology"] == "TP8"
    with pytest.raises(SystemExit):
        main([*words, "200"])
    assert "8 units of TP8 (64 GPUs used), 10.0 requests a second" in capsys.readouterr().out
