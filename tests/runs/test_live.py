"""`status --watch`: what is derived from what was asked, and what is asked of a real endpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from overspan.cli.status import block
from overspan.engines import registry
from overspan.inventory.gpus import GPU_LOAD, GpuLoad
from overspan.launchers.base import Member
from overspan.launchers.docker_commands import PROCESS_LABEL, RANKS_LABEL
from overspan.planner.make import make_plan
from overspan.runs.live import Live, MetricsReading, Traffic, rows_of, traffic_of
from overspan.runs.status import ProcessStatus, placed
from overspan.schema.event import State
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.recipe import Recipe
from overspan.store import run_secrets
from overspan.store.locks import NameLock
from overspan.store.run_folder import RunFolder
from overspan.transport.base import Completed
from overspan.transport.fake import Fake, Reply
from support.keyed_server import Keyed
from support.runs import FakeRun, a_plan
from support.waiting import until


def reading(at_s: float, tokens: float, **gauges: float) -> MetricsReading:
    return MetricsReading(at_s, {"generation_tokens": tokens, **gauges})


def test_the_rate_is_the_counters_growth_over_the_time_between() -> None:
    now = reading(14.0, 1500.0, running=3.0, waiting=0.0, kv_cache_usage=0.5)
    assert traffic_of(reading(10.0, 500.0), now) == Traffic(250.0, 3.0, 0.0, 0.5)


@pytest.mark.parametrize("before", [None, reading(10.0, 9000.0), reading(14.0, 1.0), MetricsReading(10.0, {})])
def test_no_rate_is_made_up(before: MetricsReading | None) -> None:
    now = MetricsReading(14.0, {}) if before is not None and not before.sample else reading(14.0, 1500.0)
    assert traffic_of(before, now).tokens_per_s is None


def process(name: str, host: str, health: str = "running") -> ProcessStatus:
    return ProcessStatus(process=name, host=host, health=health, pid=1, memory_bytes=2**30, uptime_s=61.0)


def a_load(index: int) -> GpuLoad:
    return GpuLoad(index, 0.97, 402.3, 70 * 2**30, 60.0)


def two_nodes(**recipe: object) -> Plan:
    hosts = [Host.model_validate({"name": name, "memory_bytes": 1, "ssh": {"address": name},
                                  "gpus": [{"index": 0, "kind": "h100", "memory_bytes": 80_000_000_000}]})
             for name in ("node1", "node2")]  # fmt: skip
    plan = make_plan(
        Recipe.model_validate({"name": "two", "model": "m", "port": 1, **recipe}),
        Inventory(hosts=[Host(name="here", memory_bytes=1)]),
        EngineChoice(name="vllm", version="0"),
    )
    places = [Placement(process=f"rank{n}", host=f"node{n + 1}", ranks=[n], gpus=[0]) for n in (0, 1)]
    inventory = Inventory(hosts=hosts, launcher="docker", device="cuda")
    return plan.with_(inventory=inventory, placements=places)


def test_a_row_for_each_rank_with_its_own_gpu() -> None:
    plan = two_nodes()
    plan = plan.with_(
        placements=[Placement(process="api", host="node1", ranks=[0, 1], gpus=[2, 3]), plan.placements[1]]
    )
    rows = rows_of(plan, [process("api", "node1"), process("rank1", "node2")], {"node1": [a_load(3), a_load(2)]})
    assert [(row.process, row.ranks, row.gpu) for row in rows] == [("api", "0", 2), ("api", "1", 3), ("rank1", "1", 0)]
    assert [row.load.index if row.load else None for row in rows] == [2, 3, None]


@pytest.mark.parametrize(
    ("state", "told"), [("staged", "not started"), ("launching", "starting"), ("ready", "dead"), ("stopping", "dead")]
)
def test_a_process_that_its_host_does_not_have(state: State, told: str) -> None:
    here = Member(process="rank0", host="node1", health="running", pid=7)
    seen = placed(two_nodes(), [here], (), state)
    assert [one.health for one in seen] == ["running", told]
    assert [one.health for one in placed(two_nodes(), [here], ("node2",), state)] == ["running", "unknown"]


def test_the_dashboard_of_ray_and_of_nothing_else() -> None:
    assert registry.find("vllm-ray").dashboard(two_nodes(engine="vllm-ray")) == "http://node1:8265"
    assert registry.find("vllm").dashboard(two_nodes()) is None


@pytest.fixture
def serving() -> Iterator[Callable[[Plan], RunFolder]]:
    """A folder as of a run that serves, its name's lock held as by a supervisor."""
    with ExitStack() as stack:

        def make(plan: Plan) -> RunFolder:
            folder = RunFolder.create("live")
            lock = NameLock("live")
            stack.callback(lock.close)
            lock.take(folder.id)
            folder.write("plan.json", plan)
            folder.append("known answers: 1 right", state="verified")
            return folder

        yield make


Serving = Callable[[Plan], RunFolder]

INSPECTED = {
    "id": "c" * 64, "name": "/x", "labels": {PROCESS_LABEL: "rank0", RANKS_LABEL: "0"},
    "state": {"Status": "running", "ExitCode": 0, "Pid": 7, "StartedAt": "2026-11-22T10:00:00.0Z",
              "FinishedAt": "0001-01-01T00:00:00Z"},
}  # fmt: skip
DOCKER = [
    Reply(argv=["docker", "ps", "**"], stdout="c" * 64 + "\n"),
    Reply(argv=["docker", "container", "inspect", "**"], stdout=json.dumps(INSPECTED) + "\n"),
    Reply(argv=["docker", "top", "**"], stdout="PID PPID RSS STAT COMMAND\n7 1 3145728 Sl vllm serve m\n"),
]
LOAD = Reply(argv=GPU_LOAD.argv, stdout="0, 97, 402.30, 71680, 60\n")


def test_a_view_of_an_endpoint_and_of_a_host_that_is_gone(serving: Serving) -> None:
    server = Keyed(None)
    plan = two_nodes()
    folder = serving(plan.with_(endpoint=a_plan(server.port).endpoint))
    gone = Reply(argv=["**"], unreachable="No route to host")
    ways = {"node1": Fake("node1", [LOAD, *DOCKER]), "node2": Fake("node2", [gone])}
    try:
        with Live(folder, ways) as live:
            first = live.look()
            time.sleep(0.3)
            second = live.look()
    finally:
        server.close()
    assert first.traffic == Traffic(None, 3.0, 2.0, 0.25)
    assert second.traffic is not None
    assert second.traffic.tokens_per_s is not None
    assert 0 < second.traffic.tokens_per_s <= 500 / 0.25  # the looks were at least 0.3 s apart, less one reply's way
    assert [(row.host, row.health) for row in second.rows] == [("node1", "running"), ("node2", "unknown")]
    assert list(second.status.unreachable) == ["node2"]
    text = block(second)
    assert "node2 does not answer: node2 is unreachable (No route to host)" in text
    assert "3 requests running, 2 waiting, KV cache 25.0% used" in text
    line = next(line for line in text.splitlines() if line.startswith("rank0"))
    assert line.split()[:6] == ["rank0", "0", "node1", "running", "3.0", "GiB"]
    assert line.split()[-6:] == ["0", "97%", "402", "W", "70.0", "GiB"]
    assert len({head.splitlines()[0] for head in server.heads}) == 1


class Hangs(Fake):
    """A host that takes the question and says nothing, until the test ends."""

    over = threading.Event()

    def run(self, *args: object, **more: object) -> Completed:
        self.over.wait(30)
        return super().run(["x"])


def test_a_host_that_hangs_does_not_stop_the_view(serving: Serving) -> None:
    plan = two_nodes()
    folder = serving(plan)
    ways = {"node1": Fake("node1", [LOAD, *DOCKER]), "node2": Hangs("node2", [Reply(argv=["**"])])}
    try:
        with Live(folder, ways) as live:
            seen = [live.look(0.2), live.look(0.2)]
    finally:
        Hangs.over.set()
    for sight in seen:
        assert sight.status.unreachable["node2"].startswith("no answer for")
        assert sight.rows[0].load == GpuLoad(0, 0.97, 402.3, 70 * 2**30, 60.0)


def test_a_silent_endpoint_is_told(serving: Serving) -> None:
    with Live(serving(a_plan(9))) as live:
        sight = live.look()
    assert sight.traffic is None
    assert "does not answer" in sight.problems["endpoint"]
    assert "endpoint: http://127.0.0.1:9/metrics does not answer" in block(sight)


def test_the_key_is_sent_and_not_shown(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_API_KEY", "k3y-of-the-run")
    server = Keyed("k3y-of-the-run")
    folder = serving(a_plan(server.port, api_key=True))
    try:
        with Live(folder) as live:
            refused = live.look()
            run_secrets.make(folder, folder.plan(), run_secrets.API_KEY, [])
            sight = live.look()
    finally:
        server.close()
    assert "HTTP 401" in refused.problems["endpoint"]
    assert sight.traffic is not None
    assert "k3y-of-the-run" not in block(refused) + block(sight)
    assert f"a key, which is in {folder.path / 'secrets.json'}" in block(sight)


def watching(run: FakeRun, *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "overspan", "status", run.folder.id, "--watch", "--interval", "0.2", *more]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_ctrl_c_ends_the_view_with_0(launch: Callable[..., FakeRun]) -> None:
    run = launch()
    run.wait_for("verified")
    with watching(run) as view:
        assert view.stdout is not None
        lines = [view.stdout.readline() for _ in range(12)]
        view.send_signal(signal.SIGINT)
        assert view.wait(20) == 0
        assert view.stderr is not None
        assert view.stderr.read() == ""
    assert sum("verified for" in line for line in lines) >= 2
    assert any(line.split()[:4] == ["api", "0", "here", "running"] for line in lines)
    assert "\x1b" not in "".join(lines)


def test_the_view_ends_with_the_run(launch: Callable[..., FakeRun]) -> None:
    run = launch()
    run.wait_for("verified")
    with watching(run) as view:
        assert view.stdout is not None
        view.stdout.readline()
        run.end()
        assert view.wait(20) == 3
        assert "stopped for" in view.stdout.read()


def test_in_a_terminal_a_view_takes_the_place_of_the_one_before(serving: Serving) -> None:
    folder = serving(a_plan(9))
    ours, theirs = os.openpty()
    argv = [sys.executable, "-m", "overspan", "status", folder.id, "--watch", "--interval", "0.2"]
    seen = b""
    with subprocess.Popen(argv, stdout=theirs) as view:
        os.close(theirs)
        while seen.count(b"\x1b[J") < 2:
            seen += os.read(ours, 4096)
        view.send_signal(signal.SIGINT)
        assert view.wait(20) == 0
    os.close(ours)
    views = seen.split(b"\x1b[H")[1:3]
    assert all(b"live-" in one and b"\x1b[K" in one for one in views)
    assert b"\n" not in views[0].split(b"\x1b[J")[1]


def test_a_hostile_message_cannot_steer_the_terminal(serving: Serving) -> None:
    folder = serving(a_plan(9))
    folder.append("known answers: \x1b]0;pwned\x07", state="verified")
    argv = [sys.executable, "-m", "overspan", "status", folder.id, "--watch", "--interval", "0.2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as view:
        assert view.stdout is not None
        first = until(view.stdout.readline, "a line")
        view.send_signal(signal.SIGINT)
        view.wait(20)
    assert "pwned" in first
    assert first.rstrip("\n").isprintable()
