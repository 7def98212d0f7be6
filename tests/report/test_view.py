from typing import Any

import pytest

from overspan.report import render, view
from overspan.schema.finding import Finding
from overspan.schema.recipe import Recipe
from overspan.schema.workload import Distribution, GpuClocks, Pauses
from support.run_documents import bench, events, findings, gpu_plan, plan, point, run


def test_the_headline_says_model_layout_machine_rate_and_first_token() -> None:
    fast = point(16, output_tokens_per_s=415.2)
    first = point(1, output_tokens_per_s=52.0, ttft_ms=Distribution(p50=44.1))
    said = view.headline([run(bench=bench([fast, first]))])
    assert said == (
        "tiny-135m as tp1 on 2 CPU cores gave 415 tok/s at 16 users, and its first token after 44 ms with 1 user."
    )


def test_the_headline_counts_gpus_and_does_not_claim_what_the_client_limited() -> None:
    limited = point(64, output_tokens_per_s=900.0, client_bound=True)
    said = view.headline([run(plan=gpu_plan(), bench=bench([limited]))])
    assert "as tp2 on 2 × gb10 on 2 hosts gave at least 900 tok/s" in said


def test_the_headline_without_measurements() -> None:
    assert view.headline([run(bench=None)]).endswith("not measured yet.")
    assert view.headline([run(bench=None, events=events(failed=True))]).endswith(" failed.")
    lost = point(4, output_tokens_per_s=None, ttft_ms=Distribution())
    assert view.headline([run(bench=bench([lost]))]).endswith("no request succeeded.")


def test_the_headline_of_several_runs_names_the_best() -> None:
    slow, fast = run("slow"), run("fast", speed=2.0)
    said = view.headline([slow, fast])
    assert said.startswith("Of 2 runs, fast gave the most: ")
    assert "came from fast" in said


def sent(planned: dict[int, int], **load: Any) -> str:
    points = [point(users, requests=count) for users, count in planned.items()]
    made = bench(points)
    return view.requests_sent(run(bench=made.with_(workload=made.workload.with_(**load))))


def test_the_true_numbers_of_requests_stand_there() -> None:
    assert sent({1: 16, 4: 16}, requests=16) == "16 requests at each number of users"
    told = "19 requests at 1 user, 1,200 requests at 32 users, sent within 12 s"
    assert sent({1: 19, 32: 1200}, requests=128, duration_s=12.0) == told
    assert sent({3: 100}, arrival="poisson", rates=[2.0]) == "100 requests at each rate"
    assert sent({3: 100}, arrival="trace", concurrency=[]) == "100 requests of a trace"
    drawn = run("drawn", plan=plan(recipe=plan().recipe.with_(engine_args={"load_format": "synthetic"})))
    assert "requests at each number of users, chat endpoint" in render(drawn)


@pytest.mark.parametrize("load_format", ["synthetic", "dummy"])
def test_the_headline_says_that_weights_were_drawn(load_format: str) -> None:
    drawn = run("drawn", speed=2.0, plan=plan(recipe=plan().recipe.with_(engine_args={"load_format": load_format})))
    assert view.headline([drawn]).startswith("tiny-135m with synthetic weights as tp1 on ")
    assert "drawn with synthetic weights gave the most" in view.headline([run("real"), drawn])
    assert "synthetic" not in view.headline([run("real")])


def test_the_headline_says_that_the_server_stood_still() -> None:
    stopped = point(4, pauses=Pauses(count=2, seconds=3.0, longest_s=2.0), disturbed=True)
    assert "at 4 users (the server stood still at times)" in view.headline([run(bench=bench([stopped]))])


def test_states_last_until_the_next_one_and_the_end_has_no_length() -> None:
    found = view.stages(events())
    assert [(stage.state, stage.duration) for stage in found][2:5] == [
        ("launching", "12.3 s"), ("ready", "0.80 s"), ("verified", "1 min 01 s"),
    ]  # fmt: skip
    assert (found[-1].state, found[-1].duration) == ("stopped", None)
    assert abs(sum(stage.share for stage in found) - 1) < 1e-9


def test_rates_per_gpu_and_interactivity() -> None:
    measured = point(4, output_tokens_per_s=200.0, tpot_ms=Distribution(p50=20.0))
    heads, rows = view.throughput_table([run(plan=gpu_plan(), bench=bench([measured]))])
    shown = dict(zip([name for name, _ in heads], rows[0].cells, strict=True))
    assert (shown["Output"], shown["Output per GPU"], shown["Interactivity"]) == ("200", "100", "50.0")
    heads, _ = view.throughput_table([run(plan=plan(), bench=bench([measured]))])
    assert "Output per GPU" not in [name for name, _ in heads]


def test_failed_checks_come_first() -> None:
    assert [finding.status for finding in view.ordered(findings())] == ["failed", "not_evaluated", "passed"]


def test_what_is_missing_comes_with_the_command_that_makes_it() -> None:
    serving = events()[:4]
    gaps = {
        gap.file: gap.command for gap in view.missing(run("r1", bench=None, findings=[], processes=[], events=serving))
    }
    assert gaps == {
        "verify.json": "overspan up acme/tiny-135m",
        "bench.json": "overspan bench r1 --concurrency 1,4,16",
        "processes.json": "overspan up acme/tiny-135m",
    }


def test_a_run_that_is_over_is_started_again_to_be_measured() -> None:
    known = plan(recipe=Recipe(name="smollm2-135m", model="HuggingFaceTB/SmolLM2-135M-Instruct"))
    (gap,) = view.missing(run("r1", plan=known, bench=None))
    assert gap.command == "overspan up smollm2-135m && overspan bench --concurrency 1,4,16"


def test_a_run_with_everything_lacks_nothing() -> None:
    passed = [Finding(rule="known_answer", status="passed")]
    assert view.missing(run(findings=passed)) == []


def test_clocks_of_each_gpu_stand_in_the_report_and_so_does_what_is_not_known() -> None:
    gpu = GpuClocks(
        host="spark1", index=0, samples=9, sm_clock_mhz=1425.0, lowest_sm_clock_mhz=1395.0, max_sm_clock_mhz=1980.0,
        power_w=691.6, at_cap_share=0.83, slowed={"heat (software)": 0.1},
    )  # fmt: skip
    seen = point(4, gpus=[gpu], gpus_unknown={"spark2": "no <nvidia-smi>"})
    made = run(plan=gpu_plan(), bench=bench([seen]))
    told = ["spark1 0", "1,425", "1,395", "1,980", "692", "–", "83%", "heat (software) 10%"]
    blind = ["spark2", "not known: no <nvidia-smi>", *["–"] * 6]
    assert view.clock_rows(made) == [("4 users", told), ("4 users", blind)]
    page = render(made)
    assert "heat (software) 10%" in page and "no &lt;nvidia-smi&gt;" in page
