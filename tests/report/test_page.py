"""The page in a real browser: what is drawn, what it asks of the network, and what untrusted text can do."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from overspan.report import RunDocuments, render
from overspan.schema.errors import InputError
from overspan.schema.event import Event
from overspan.schema.finding import Evidence, Finding
from overspan.schema.plan import EngineChoice, Rejection
from overspan.schema.prediction import Interval, Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.workload import Demand
from support.browser import Visit, needs_chromium, visit
from support.run_documents import bench, events, gpu_plan, plan, point, process, run

EVIL = (
    "</script></pre><script>document.documentElement.dataset.pwned='tag'</script>"
    "<img src=x onerror=\"document.documentElement.dataset.pwned='attribute'\">'\"{{ 7*7 }}<a href=https://evil.invalid>x</a>"
)


class _Text(HTMLParser):
    """The text of a page and the addresses that it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self._quiet = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._quiet = tag if tag in ("script", "style") else ""
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "poster")]

    def handle_endtag(self, tag: str) -> None:
        self._quiet = ""

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parsed(page: str) -> _Text:
    reader = _Text()
    reader.feed(page)
    return reader


def opened(folder: Path, *runs: RunDocuments, width: int = 1280) -> Visit:
    file = folder / "report.html"
    file.write_text(render(*runs), encoding="utf-8")
    return visit(file, width=width)


def chart(dom: str, name: str) -> str:
    """The DOM of one chart, up to its caption or the next figure."""
    found = re.search(rf'id="chart-{name}".*?</figure>', dom, re.DOTALL)
    assert found, f"no chart {name}"
    return found[0]


def test_the_page_without_scripts_has_every_count_and_number() -> None:
    text = parsed(
        render(
            run(
                bench=bench(
                    [
                        point(1),
                        point(
                            16,
                            40,
                            failed=5,
                            client_bound=True,
                            client={"reasons": ["CPU at 100 %"], "cpu_share": 0.998},
                        ),
                    ]
                )
            )
        )
    ).text
    assert "40 35 5" in text
    assert "5 × timeout" in text
    assert "client-bound" in text
    assert "CPU at 100 %" in text
    assert "cpu_share 0.998" in text
    assert "context_length" in text
    assert "--override-generation-config '{\"temperature\": 0}'" in text
    assert "AMD EPYC 9B14" in text
    assert "vllm 0.32.0" in text


def test_rejected_layouts_placements_and_network_stand_in_the_plan() -> None:
    text = parsed(render(run(plan=gpu_plan()))).text
    assert "weights of 126.0 GiB do not fit in 119.0 GiB" in text
    assert "rank1 spark2 1 0" in text
    assert "200 Gbit/s, RDMA rocep1s0f0" in text


def test_a_failed_run_quotes_its_last_lines() -> None:
    text = parsed(render(run(events=events(failed=True)))).text
    assert "tiny failed: api died Traceback (most recent call last): RuntimeError: out of memory" in text


def test_a_run_with_nothing_but_a_plan_says_what_is_missing() -> None:
    page = parsed(render(RunDocuments(name="early", plan=plan())))
    assert "overspan bench early --concurrency" in page.text
    assert "overspan up acme/tiny-135m" in page.text
    assert "No state was recorded" in page.text


def test_a_report_needs_a_run() -> None:
    with pytest.raises(InputError):
        render()


def test_the_page_loads_nothing() -> None:
    assert [address for address in parsed(render(run())).loads if not address.startswith("#")] == []


def test_secrets_do_not_reach_the_page() -> None:
    leaky = process().with_(env={"HF_TOKEN": "hf_leak"}, argv=["vllm", "--api-key", "sk-leak"])
    page = render(run(processes=[leaky]))
    assert "hf_leak" not in page
    assert "sk-leak" not in page


@needs_chromium
@pytest.mark.real
@pytest.mark.parametrize("width", [1280, 500])
def test_charts_are_drawn_from_every_point(tmp_path: Path, width: int) -> None:
    seen = opened(tmp_path, run(users=(1, 4, 16, 64)), width=width)
    assert chart(seen.dom, "throughput").count('class="point"') == 4
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        assert chart(seen.dom, metric).count('class="js-line"') == 4
    assert "16 users" in chart(seen.dom, "throughput")
    assert seen.console == []
    assert seen.requested == []


@needs_chromium
@pytest.mark.real
def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    lossy = run("third", bench=bench([point(4), point(16, failed=3)]), latencies={})
    seen = opened(tmp_path, run("first"), run("second", speed=1.5), lossy)
    throughput = chart(seen.dom, "throughput")
    assert throughput.count('class="point"') == 8
    assert len(set(re.findall(r'class="js-line"[^>]*stroke: (rgb\([^)]*\))', throughput))) == 3
    # One concurrency at a time, the highest that all have: a curve a run.
    assert chart(seen.dom, "ttft_ms").count('class="js-line"') == 3
    assert re.search(r'value="16" checked', seen.dom)
    assert seen.console == []


@needs_chromium
@pytest.mark.real
def test_untrusted_text_is_inert(tmp_path: Path) -> None:
    recipe = Recipe(
        name="evil", model=EVIL, served_model_name=EVIL, description=EVIL, warnings=[EVIL], engine_args={EVIL: EVIL}
    )
    step = Interval(low=1, high=2)
    foreseen = Prediction(
        layout=plan().layout, demand=Demand(), gpus=1, tpot_ms=1, ttft_ms=1, terms={EVIL: 1}, ttft_terms={EVIL: 1},
        bound=EVIL, ceiling_tpot_ms=1, interval=step, ttft_interval=step, running=1, basis="calibrated", notes=[EVIL],
    )  # fmt: skip
    evil_plan = plan(
        recipe=recipe, notes=[EVIL], rejected=[Rejection(layout=plan().layout, reason=EVIL)],
        engine=EngineChoice(name=EVIL, version=EVIL), prediction=foreseen,
    )  # fmt: skip
    happened = [*events(), Event(at=events()[-1].at, message=EVIL, state="failed", data={"log": [EVIL, "two words"]})]
    found = [Finding(rule=EVIL, status="failed", cause=EVIL, fix=EVIL, evidence=Evidence(text=EVIL, file=EVIL))]
    broken = point(4, failed=1, client_bound=True, client={"reasons": [EVIL]})
    broken = broken.with_(requests=broken.requests.with_(errors={EVIL: 1}))
    spec = process().with_(argv=["vllm", EVIL], env={"X": EVIL}, name=EVIL)
    documents = run(EVIL, plan=evil_plan, events=happened, findings=found, bench=bench([broken]), processes=[spec])
    seen = opened(tmp_path, documents, run("good"))
    assert 'id="chart-throughput"' in seen.dom
    assert chart(seen.dom, "throughput").count('class="point"') == 4
    assert not re.search(r"<html[^>]*data-pwned", seen.dom)
    assert not re.search(r"<img\b", seen.dom)
    assert not re.search(r"<a [^>]*evil\.invalid", seen.dom)
    assert (seen.console, seen.requested) == ([], [])


@needs_chromium
@pytest.mark.real
def test_the_policy_stops_even_a_script_that_got_in(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    intruder = "<script>document.documentElement.dataset.pwned = 1</script><img src='http://127.0.0.1:9/x.png'>"
    file.write_text(render(run()).replace("<main>", f"<main>{intruder}"), encoding="utf-8")
    seen = visit(file)
    assert not re.search(r"<html[^>]*data-pwned", seen.dom)
    assert any("Content Security Policy" in line for line in seen.console)
    assert seen.requested == []


@needs_chromium
@pytest.mark.real
def test_the_browser_of_these_tests_sees_errors_and_requests(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png'><script>nowhere()</script>")
    seen = visit(file)
    assert seen.requested == ["http://127.0.0.1:9/x.png"]
    assert any("nowhere is not defined" in line for line in seen.console)


def acted(folder: Path, script: str, *runs: RunDocuments) -> str:
    """What a script of the test's own, run after the page's, left in the title. It takes the policy off to get in."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render(*runs))
    late = f"<script>setTimeout(() => {{ {script} }}, 200)</script></body>"
    (folder / "acted.html").write_text(page.replace("</body>", late), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", visit(folder / "acted.html").dom)
    assert title
    return title[1]


@needs_chromium
@pytest.mark.real
def test_charts_take_the_width_of_paper_and_come_back(tmp_path: Path) -> None:
    script = """
      const width = () => document.querySelector("#chart-throughput .main-svg").getAttribute("width");
      const before = width();
      dispatchEvent(new Event("beforeprint"));
      const paper = width() + " " + document.querySelector("details").open;
      dispatchEvent(new Event("afterprint"));
      document.title = `${paper} ${width() === before} ${document.querySelector("details").open}`;
    """
    assert acted(tmp_path, script, run()) == "640 true true false"


@needs_chromium
@pytest.mark.real
def test_the_reader_picks_the_concurrency_that_runs_are_compared_at(tmp_path: Path) -> None:
    script = """
      const curves = () => document.querySelectorAll("#chart-ttft_ms .js-line").length;
      const first = curves();
      document.querySelector('input[name="users"][value="4"]').click();
      document.title = `${first} ${curves()}`;
    """
    three = [run("one"), run("two"), run("three", users=(4, 8))]
    assert acted(tmp_path, script, *three) == "3 3"
    assert acted(tmp_path, script.replace('value="4"', 'value="8"'), *three) == "3 1"


@needs_chromium
@pytest.mark.real
def test_charts_are_dark_where_the_page_is(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(run()), encoding="utf-8")
    strokes = [
        re.findall(r'class="js-line"[^>]*stroke: (rgb\([^)]*\))', chart(visit(page, dark=dark).dom, "throughput"))
        for page in [tmp_path / "report.html"]
        for dark in (False, True)
    ]
    assert strokes == [["rgb(11, 98, 168)"], ["rgb(90, 169, 238)"]]


def test_figures_are_data_that_no_text_can_break_out_of() -> None:
    page = render(run("a</script><b>"), run("b"))
    held = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert held
    assert set(json.loads(held[1])) == {"throughput", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"}
    # Plotly reads a little HTML in labels: a run's name must reach it as text.
    labels = [label for trace in json.loads(held[1])["ttft_ms"]["data"] for label in trace["hovertext"]]
    assert "a&lt;/script&gt;&lt;b&gt;, 4 users" in " ".join(labels)
