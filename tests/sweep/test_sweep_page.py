"""A sweep's page in a real browser: every planned point, the front, what a hover tells, and untrusted text."""

import html
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.schema.statistics import pareto_front
from overspan.sweep.figures import charts, drawn_of, places, styles_of
from overspan.sweep.folder import MeasuredSweep
from overspan.sweep.page import headline, render_sweep
from support.browser import needs_chromium, visit
from support.sweep_documents import a_sweep, result

EVIL = "</script><script>document.documentElement.dataset.pwned='1'</script><img src=x onerror=\"alert(1)\">"
coordinates = st.floats(0.1, 1e6)


@given(st.lists(st.tuples(coordinates, coordinates)))
def test_nothing_beats_the_front_and_all_else_is_beaten(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)

    def beaten(point: tuple[float, float]) -> bool:
        return any(one[0] >= point[0] and one[1] >= point[1] and one != point for one in points)

    assert set(front) == {point for point in points if not beaten(point)}
    assert front == sorted(front)


def test_every_planned_point_stands_in_the_page_with_its_state() -> None:
    sweep = a_sweep(failed=2, missing=3)
    page = render_sweep(sweep)
    for point in sweep.points:
        assert f'<th scope="row">{point.id}</th>' in page
    assert page.count('<span class="badge bad">failed</span>') == 2
    assert page.count('<span class="badge warn">missing</span>') == 3
    assert page.count('<span class="badge good">ok</span>') == 10
    assert page.count("3 of 40 requests failed (timeout 3)") >= 2
    assert "<dd>10 of 15" in page


def test_counts_of_gpus_are_those_of_the_plan() -> None:
    """Four ways to count, from the same tokens: used and reserved GPUs, output and all tokens."""
    sweep = a_sweep()
    point = sweep.points[1].with_(gpus_reserved=24)
    one = result(point)
    figures = charts(drawn_of([one]))
    by_view = {trace["meta"]["view"]: trace["y"] for trace in figures["pareto"]["data"] if "view" in trace["meta"]}
    (output,) = by_view["output-used"]
    assert by_view["output-reserved"] == [pytest.approx(output / 2, rel=1e-3)]
    assert by_view["total-used"] == [pytest.approx(output * 2, rel=1e-3)]
    assert one.measured is not None
    assert output == pytest.approx((one.measured.output_tokens_per_s or 0) / 12, rel=1e-3)


def test_a_hover_tells_the_point_its_numbers_and_its_command() -> None:
    figures = charts(drawn_of(a_sweep().ended))
    hovers = [text for trace in figures["pareto"]["data"] for text in trace.get("hovertext", [])]
    (shown,) = {text for text in hovers if "1k1k/2p1d-dep4-tep8/c32" in text}
    for said in ("16 GPUs used, 16 reserved", "predicted", "dynamo.vllm", "320 of 320 requests ok"):
        assert said in shown


def test_what_each_role_does_stands_in_a_chart_of_its_own() -> None:
    sweep = a_sweep(failed=0, missing=0)
    traces = {trace["name"]: trace for trace in charts(drawn_of(sweep.ended))["roles"]["data"]}
    (point,) = (point for point in sweep.points if point.topology == "1P2D DEP4->DEP4")
    seen = sweep.results[point.id].measured
    assert seen is not None and seen.output_tokens_per_s is not None and seen.input_tokens_per_s is not None
    assert traces["1P2D DEP4-&gt;DEP4 output"]["y"] == [pytest.approx(seen.output_tokens_per_s / 8, abs=1e-3)]
    assert traces["1P2D DEP4-&gt;DEP4 input"]["y"] == [pytest.approx(seen.input_tokens_per_s / 4, abs=1e-3)]
    assert 'id="chart-roles"' in render_sweep(sweep)


@needs_chromium
@pytest.mark.real
def test_the_page_draws_and_the_reader_picks(tmp_path: Path) -> None:
    """One visit: what is drawn at first, and after another view was picked."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_sweep(a_sweep(failed=0, missing=0)))
    script = """
      const traces = () => document.querySelector("#chart-pareto").data.filter((trace) => trace.visible !== false);
      const high = () => Math.max(...traces().flatMap((trace) => trace.y));
      const dots = () => document.querySelectorAll("#chart-pareto .point").length;
      const first = [dots(), high()];
      document.querySelector('input[name="view"][value="total-used"]').click();
      document.title = JSON.stringify([...first, dots(), high()]);
    """
    late = f"<script>setTimeout(() => {{ {script} }}, 200)</script></body>"
    (tmp_path / "acted.html").write_text(page.replace("</body>", late), encoding="utf-8")
    seen = visit(tmp_path / "acted.html")
    title = re.search(r"<title>(.*?)</title>", seen.dom)
    assert title
    dots, high, dots_after, high_after = json.loads(title[1])
    assert dots == dots_after == 15
    assert high_after == pytest.approx(2 * high, rel=1e-3)
    assert len(re.findall(r'id="chart-load-t[tp][fo]t"', seen.dom)) == 2
    assert (seen.console, seen.requested) == ([], [])


@needs_chromium
@pytest.mark.real
@pytest.mark.parametrize("width", [1400, 500])
def test_the_table_of_points_fits_a_wide_window_and_no_row_is_tall_in_a_narrow_one(tmp_path: Path, width: int) -> None:
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_sweep(a_sweep(failed=2)))
    script = """
      const table = document.querySelector("table.points");
      const tall = Math.max(...[...table.tBodies[0].rows].map((row) => row.offsetHeight));
      document.title = JSON.stringify([table.scrollWidth, table.parentElement.clientWidth, tall]);
    """
    file = tmp_path / "measured.html"
    file.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", visit(file, width=width).dom)
    assert title
    needed, room, tall = json.loads(title[1])
    if width == 1400:
        assert needed <= room
    assert tall < 60  # two lines of text


@needs_chromium
@pytest.mark.real
def test_untrusted_text_is_inert(tmp_path: Path) -> None:
    sweep = a_sweep()
    evil = sweep.points[2].with_(model=EVIL, notes=[EVIL], image=EVIL, deployment=EVIL)
    ended = result(evil, state="failed", reason=EVIL)
    documents = MeasuredSweep(EVIL, [evil, *sweep.points[3:]], {**sweep.results, evil.id: ended})
    (tmp_path / "evil.html").write_text(render_sweep(documents), encoding="utf-8")
    seen = visit(tmp_path / "evil.html")
    assert 'id="chart-pareto"' in seen.dom
    assert not re.search(r"<html[^>]*data-pwned|<img\b", seen.dom)
    assert (seen.console, seen.requested) == ([], [])


@given(st.lists(st.tuples(st.floats(20, 880), st.floats(20, 280)), min_size=1, max_size=12))
def test_labels_of_dots_that_stand_apart_cover_nothing(dots: list[tuple[float, float]]) -> None:
    apart = [dot for index, dot in enumerate(dots) if all(math.dist(dot, other) > 80 for other in dots[:index])]
    assert places(apart, [2] * len(apart)) == ["top right"] * len(apart)


def test_labels_step_aside_for_dots_and_labels() -> None:
    assert places([(100, 100), (112, 88)], [2, 2]) == ["bottom right", "top right"]
    three = places([(100, 100), (104, 100), (108, 100)], [3, 3, 3])
    assert len(set(three)) == 3


def test_colours_of_the_legend_are_those_of_the_charts() -> None:
    """A series without numbers takes no colour from the others."""
    sweep = a_sweep()
    (first, *others) = sweep.points
    failed = result(first.with_(name="hurried"), state="failed", reason="late", measured=None, derived={})
    page = MeasuredSweep("ladder", [failed.point, *others], {failed.point.id: failed, **sweep.results})
    drawn = {trace["name"]: trace["line"]["color"] for trace in charts(drawn_of(page.ended))["pareto"]["data"]}
    shown = re.search(r'<ul class="legend".*?</ul>', render_sweep(page), re.DOTALL)
    assert shown
    assert "hurried" not in shown[0]
    for label, style in styles_of(drawn_of(page.ended)).items():
        assert drawn[html.escape(label)] == style["color"]


def test_the_headline_names_one_topology_once_and_a_folder_by_its_name() -> None:
    sweep = a_sweep(failed=0, missing=14)
    alone = [point.with_(model="/models/some/minimax") for point in sweep.points[:1]]
    said = headline(MeasuredSweep("m3", alone, {alone[0].id: result(alone[0])}))
    assert said.startswith("minimax: of 1 point, 1P1D DEP4->TEP8 gave the most, ")
    assert said.count("1P1D") == 1
