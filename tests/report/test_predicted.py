"""Every report sets the prediction beside the measurement."""

from overspan.planner import predict_measured
from overspan.report import render, view
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from overspan.schema.workload import Distribution
from support.run_documents import bench, gpu_plan, plan, point, run


def sparks() -> object:
    recipe = Recipe(name="m", model="lukealonso/MiniMax-M2.5-NVFP4", engine_args={"max_model_len": 4096})
    return gpu_plan().with_(recipe=recipe, layout=Layout(tp=2))


def test_each_point_beside_its_prediction() -> None:
    points = [point(1, tpot_ms=Distribution(mean=58.0)), point(8, tpot_ms=Distribution(mean=5000.0))]
    made = run(plan=sparks(), bench=bench(points))
    rows, notes = view.predicted_rows(made)
    assert [row.users for row in rows] == [1, 8]
    assert [row.inside for row in rows][1] is False
    first = predict_measured.points(made.plan, made.bench)[0].predicted()  # type: ignore[arg-type]
    assert rows[0].cells[3] == f"{58.0 / first.tpot_ms:.2f}"
    assert rows[0].bound == first.bound
    page = render(made)
    assert "Predicted before, measured after" in page
    assert "outside the interval" in page
    assert not notes


def test_what_cannot_be_predicted_says_why() -> None:
    rows, notes = view.predicted_rows(run(plan=plan(), bench=bench([point(1)])))
    assert rows == []
    assert notes == ["no prediction: the sizes of acme/tiny-135m are not known"]
    assert "no prediction: the sizes of" in render(run(plan=plan(), bench=bench([point(1)])))
    assert view.predicted_rows(run(bench=None)) == ([], [])
