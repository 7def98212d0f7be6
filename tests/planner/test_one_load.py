"""One load, one meaning: predict, plan, bench and report name a load by the same words, and compare like with like."""

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest

from overspan.catalog import hardware, models
from overspan.cli.main import main
from overspan.cli.options import demand_of
from overspan.planner import predict, predict_measured
from overspan.planner.features import Case, Setting
from overspan.report import view
from overspan.schema.errors import InputError
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe
from overspan.schema.workload import BenchResult, Demand, Distribution, Pauses, SteadyWindow, Workload
from support.run_documents import bench, gpu_plan, point, run

MEASURED = Path(__file__).parents[2] / "benchmarks" / "data" / "gpu" / "one_h200.csv"
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 4096,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
         "vocab_size": 128256, "max_position_embeddings": 131072}  # fmt: skip
FIXED = "32 users in step, 1024 tokens in, 128 out (fixed lengths), whole run"
DRAWN = "32 users spread, 1024 tokens in, 128 out (drawn lengths: uniform:32-224), whole run"


def out_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(("answers", "phrase"), [("128", FIXED), ("uniform:32-224", DRAWN)])
def test_the_same_words_give_the_same_load_everywhere(
    capsys: pytest.CaptureFixture[str], answers: str, phrase: str
) -> None:
    load = ["-c", "32", "--input-tokens", "1024", "--output-tokens", answers]
    drawn = answers if ":" in answers else None
    asked = Workload(
        concurrency=[32], requests=128, requests_a_user=4, input_tokens=1024, output_tokens=128, output_lengths=drawn
    )
    result = BenchResult.model_validate({**bench([point(32)]).model_dump(), "workload": asked.model_dump()})
    assert result.phrase == result.demand(result.points[0]).phrase == phrase
    machines = ["--gpu", "h200", "--gpus", "1"]
    assert f": {phrase}\n" in out_of(capsys, "predict", "qwen3-32b-fp8", *machines, *load)
    said = json.loads(out_of(capsys, "predict", "qwen3-32b-fp8", *machines, *load, "--json"))
    assert said["load"] == phrase
    assert {"isl": 1024, "osl": 128, "concurrency": 32, "in_step": drawn is None}.items() <= said["demand"].items()
    assert demand_of("1024", answers, 32) == result.demand(result.points[0])
    assert f"with {phrase}: " in out_of(capsys, "plan", "qwen3-32b-fp8", "--on", "h200-x8", *load)
    assert json.loads(out_of(capsys, "plan", "qwen3-32b-fp8", "--on", "h200-x8", *load, "--json"))["load"] == phrase


def test_defaults_are_those_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    first = Workload(requests=1, requests_a_user=4).demand(1)
    assert f": {first.phrase}\n" in out_of(capsys, "predict", "qwen3-32b-fp8", "--gpu", "h200", "--gpus", "1")
    assert first.phrase == "1 user, 128 tokens in, 64 out (fixed lengths), whole run"
    assert demand_of(None, None, 8) == Workload(requests=1, requests_a_user=4).demand(8)
    assert demand_of(None, None, None) is None


def test_a_mean_that_was_measured_is_a_length() -> None:
    assert (found := demand_of("512.5", None, None)) is not None
    assert found.isl == 512.5
    with pytest.raises(InputError, match="--output-tokens: 'many' is not a length"):
        demand_of(None, "many", None)
    with pytest.raises(InputError, match="--concurrency and --rate exclude each other"):
        demand_of(None, None, 2, 1.0)


def test_a_rate_is_the_users_that_keep_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "qwen3-32b-fp8", "--gpu", "h200", "--gpus", "1", "--json"]
    said = json.loads(out_of(capsys, *words, "--rate", "4"))
    assert said["load"] == "4 requests/s, 128 tokens in, 64 out (fixed lengths), whole run"
    assert said["output_tokens_per_s"] / 64 == pytest.approx(4, rel=0.5)
    assert said["output_tokens_per_s"] / 64 >= 4
    flooded = json.loads(out_of(capsys, *words, "--rate", "90000"))
    assert "requests/s at most, and 90000 are asked: a queue grows" in " ".join(flooded["notes"])


def test_users_are_spread_where_answers_end_by_themselves() -> None:
    def load(**more: object) -> Demand:
        return Workload.model_validate({"requests": 64, **more}).demand(16)

    assert load().in_step
    others: list[dict[str, object]] = [{"ignore_eos": False}, {"turns": 2}, {"ramp_s": 3.0}, {"trace": "t"}]
    assert not any(load(**one).in_step for one in others)


def sizes_of(name: str, folder: Path) -> ModelSpec:
    """Llama-3.1-8B is given by its public config.json."""
    if name != "llama-3.1-8b":
        return models.find(name)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return models.from_folder(folder)


def test_first_tokens_on_one_h200(tmp_path: Path) -> None:
    """13 points, measured on a lent H200 on 2026-11-30: 128 users fall out of step (it said twice the time)."""
    h200, errors = hardware.find("h200"), []
    for row in csv.DictReader(MEASURED.open()):
        model, users = sizes_of(row["model"], tmp_path), int(row["users"])
        demand = Demand(isl=1024, osl=128, concurrency=users, rounds=float(row["rounds"]), in_step=True)
        setting = Setting(backend=predict.backend_of(model, h200), engine_version="0.26.0")
        seen = predict.predict(Case(model, Layout(), h200, demand, setting))
        errors.append(abs(seen.ttft_ms / float(row["ttft_ms"]) - 1))
        if users == 128:
            assert errors[-1] < 0.15
            steady = predict.predict(Case(model, Layout(), h200, demand.with_(window="steady"), setting))
            assert steady.ttft_ms == pytest.approx(float(row["steady_ttft_ms"]), rel=0.3)
            assert "steady window" in steady.demand.phrase
    assert fmean(errors) < 0.25


def steady(ttft_ms: float, requests: int = 4) -> SteadyWindow:
    held = Distribution(mean=ttft_ms)
    return SteadyWindow(
        duration_s=1, requests=requests, ttft_ms=held, tpot_ms=Distribution(mean=9.0), itl_ms=held, e2e_ms=held,
        output_tokens_per_s=1.0,
    )  # fmt: skip


def test_a_report_sets_the_whole_run_beside_a_prediction_of_it() -> None:
    """The steady window of the luckiest request is no measurement of the run; where the server stood still, it is."""
    recipe = Recipe(name="m", model="lukealonso/MiniMax-M2.5-NVFP4", engine_args={"max_model_len": 4096})
    plan = gpu_plan().with_(recipe=recipe, layout=Layout(tp=2))
    whole = point(4, steady=steady(382.0), ttft_ms=Distribution(mean=1211.0), tpot_ms=Distribution(mean=58.0))
    paused = whole.with_(disturbed=True, pauses=Pauses(count=3, seconds=5.0, longest_s=2.0))
    first, second = predict_measured.points(plan, bench([whole, paused]))
    assert (first.ttft_ms, first.case.demand.window) == (1211.0, "whole")
    assert (second.ttft_ms, second.tpot_ms, second.case.demand.window) == (382.0, 9.0, "steady")
    assert second.predicted().ttft_ms <= first.predicted().ttft_ms
    rows, _ = view.predicted_rows(run(plan=plan, bench=bench([whole, paused])))
    assert [row.steady for row in rows] == [False, True]
    assert [row.seen for row in rows] == ["mean of 32 requests, whole run", "mean of 4 requests, steady window"]


@pytest.mark.parametrize(("users", "requests"), [(1, 1), (4, 1), (4, 3)])
def test_a_steady_window_of_fewer_requests_than_users_is_none(users: int, requests: int) -> None:
    """The one request of eight that ended in the window was the quickest of them."""
    plan = gpu_plan().with_(layout=Layout(tp=2), recipe=Recipe(name="m", model="lukealonso/MiniMax-M2.5-NVFP4"))
    held = point(
        users, steady=steady(382.0, requests), ttft_ms=Distribution(mean=1211.0), tpot_ms=Distribution(mean=58)
    )
    (seen,) = predict_measured.points(plan, bench([held.with_(disturbed=True)]))
    assert (seen.ttft_ms, seen.case.demand.window) == (1211.0, "whole") and "whole run" in seen.seen
