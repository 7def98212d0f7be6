"""Constants learned from measured runs: the error falls, the file is taken, and what was not asked about stays near."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from overspan.catalog import hardware
from overspan.cli.main import main
from overspan.planner import predict_measured
from overspan.planner.calibrate import from_runs
from overspan.schema.errors import InputError
from overspan.schema.layout import Layout
from overspan.schema.plan import Plan
from overspan.schema.recipe import Recipe
from overspan.schema.workload import BenchPoint, BenchResult, Distribution, RequestCounts
from overspan.store.run_folder import RunFolder
from support.run_documents import bench, gpu_plan, point


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    return tmp_path


def sparks() -> Plan:
    args = {"max_model_len": 4096, "enforce_eager": True}
    recipe = Recipe(name="m", model="lukealonso/MiniMax-M2.5-NVFP4", engine_args=args)
    return gpu_plan().with_(recipe=recipe, layout=Layout(tp=2))


def measured(users: int, tpot_ms: float, ttft_ms: float = 900.0) -> BenchPoint:
    return point(users, tpot_ms=Distribution(mean=tpot_ms), ttft_ms=Distribution(mean=ttft_ms))


def make_run(result: BenchResult, plan: Plan | None = None, name: str = "m") -> RunFolder:
    run = RunFolder.create(name)
    (run.path / "plan.json").write_text((plan or sparks()).model_dump_json())
    (run.path / "bench.json").write_text(result.model_dump_json())
    return run


def truth(users: list[int], factor: float) -> list[BenchPoint]:
    """Points that are slower than predicted by one factor."""
    said = predict_measured.points(sparks(), bench([measured(n, 1.0) for n in users]))
    return [measured(item.point.concurrency, item.predicted().tpot_ms * factor) for item in said]


@pytest.mark.parametrize("users", [[1], [1, 8], [1, 2, 4, 8, 16]])
def test_the_error_falls(state: Path, users: list[int]) -> None:
    found = from_runs([make_run(bench(truth(users, 1.3)))])
    assert found.before == pytest.approx(1 - 1 / 1.3, rel=0.01)
    assert found.after < 0.25 * found.before
    assert found.hardware.constants
    assert len(found.hardware.fitted_to) == len(users)


def test_a_run_that_gave_nothing_is_named(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = measured(8, 1.0).with_(requests=RequestCounts(planned=8, ok=0, failed=8, errors={"connect_refused": 8}))
    good, bad = make_run(bench(truth([1, 8], 1.3))), make_run(bench([empty]), name="killed")
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--from", good.id, bad.id, "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code
    assert f"{bad.id} is left out" in err
    assert any("no request of it ended well" in note for note in json.loads(out)["notes"])


def test_what_was_right_stays(state: Path) -> None:
    found = from_runs([make_run(bench(truth([1, 8], 1.0)))])
    assert found.before == pytest.approx(0.0, abs=1e-9)
    assert found.after < 0.01


def test_the_file_is_taken_and_predicts_the_run(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = truth([1, 8], 1.25)
    run, file = make_run(bench(points)), tmp_path / "mine.yaml"
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--from", run.id, "--out", str(file), "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code
    document = json.loads(out)
    assert document["error_after"] < document["error_before"]
    assert "before" in err
    spec = hardware.find(str(file))
    assert spec.bandwidth == hardware.find("gb10").bandwidth
    again = predict_measured.points(sparks(), bench(points), spec)
    for item in again:
        assert item.predicted().tpot_ms == pytest.approx(item.tpot_ms, rel=0.07)
    before = from_runs([run], spec)
    assert before.before == pytest.approx(document["error_after"], abs=0.005)


def test_points_held_out_say_whether_a_fit_helps(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(bench(truth([1, 2, 4, 8], 1.3)))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--from", run.id, "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code
    unseen = json.loads(out)["held_out"]
    assert unseen["points"] == 4
    assert unseen["tpot_before"] == pytest.approx(1 - 1 / 1.3, rel=0.01)
    assert unseen["tpot_after"] < 0.5 * unseen["tpot_before"]
    assert "on 4 points, each held out of the fit: TPOT" in err


def test_one_point_says_that_nothing_was_held_out(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(bench(truth([1], 1.3)))
    with pytest.raises(SystemExit):
        main(["calibrate", "--from", run.id, "--json"])
    out, err = capsys.readouterr()
    assert json.loads(out)["held_out"] is None
    assert "nothing was held out" in err


def test_constants_that_predict_the_unseen_worse_are_not_written(state: Path) -> None:
    # 25 % above what is predicted at one user, 20 % below at eight: neither says anything of the other.
    up, down = truth([1, 8], 1.25), truth([1, 8], 0.8)
    noisy = from_runs([make_run(bench([up[0], down[1]]))])
    assert noisy.held_out
    assert any("constants of TPOT stay" in note for note in noisy.kept)
    assert noisy.after == pytest.approx(noisy.before)


@pytest.mark.parametrize("factors", [(1.25, 0.8), (1.6,), (2.0, 1.5, 0.7)])
def test_a_fitted_interval_holds_what_it_was_fitted_to(state: Path, tmp_path: Path, factors: Sequence[float]) -> None:
    users = [1, 8, 16][: len(factors)]
    points = [truth(users, factor)[index] for index, factor in enumerate(factors)]
    found = from_runs([make_run(bench(points))])
    for item in predict_measured.points(sparks(), bench(points), found.hardware):
        said = item.predicted()
        assert said.interval.low <= (item.tpot_ms or 0) <= said.interval.high
        assert said.ttft_interval.low <= (item.ttft_ms or 0) <= said.ttft_interval.high
    assert all("(mean of" in label for label in found.hardware.fitted_to)
    few, many = (from_runs([make_run(bench(truth(users, 1.3)))]).hardware for users in ([1], [1, 2, 4, 8, 16]))
    assert few.scatter >= many.scatter


def test_a_measured_number_that_predicts_worse_gives_way_to_the_catalogues(state: Path) -> None:
    run = make_run(bench(truth([1, 2, 8], 1.0)))
    known = hardware.find("gb10")
    half = known.bandwidth.with_(bytes_per_s=known.bandwidth.bytes_per_s / 2)
    found = from_runs([run], known.with_(name="my-gb10", bandwidth=half))
    assert found.hardware.bandwidth == known.bandwidth
    assert any(note.startswith("bandwidth is the catalogue's again") for note in found.kept)
    assert found.after < 0.01


def test_a_measured_number_that_predicts_better_stays(state: Path) -> None:
    known = hardware.find("gb10")
    half = known.bandwidth.with_(bytes_per_s=known.bandwidth.bytes_per_s / 2)
    own = known.with_(name="my-gb10", bandwidth=half)
    said = predict_measured.points(sparks(), bench([measured(n, 1.0) for n in (1, 2, 8)]), own)
    run = make_run(bench([measured(item.point.concurrency, item.predicted().tpot_ms) for item in said]))
    assert from_runs([run], own).hardware.bandwidth == half


def test_nothing_to_learn_from(state: Path) -> None:
    with pytest.raises(InputError, match="none of these runs holds a measured point"):
        from_runs([make_run(bench([measured(1, 50.0).with_(rate_per_s=2.0)]))])
    other = sparks()
    hosts = [host.with_(gpus=[gpu.with_(kind="h200") for gpu in host.gpus]) for host in other.inventory.hosts]
    h200 = other.inventory.with_(hosts=hosts)
    runs = [
        make_run(bench(truth([1], 1.0))),
        make_run(bench([measured(1, 9.0)]), other.with_(inventory=h200)),
    ]
    with pytest.raises(InputError, match="the runs are of gb10, h200"):
        from_runs(runs)


def test_a_constant_that_does_not_exist_is_told(tmp_path: Path) -> None:
    from overspan.catalog import calibration
    from overspan.schema.errors import RecipeError

    spec = hardware.find("gb10").with_(constants={"weightz": 1.0})
    with pytest.raises(RecipeError, match="unknown constants weightz"):
        calibration.of(spec)
