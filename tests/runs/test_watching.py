"""What the head's supervisor does, in this process: with a launcher whose processes die when a test says so."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from overspan.inventory.gpus import GPU_LOAD
from overspan.launchers.base import Death
from overspan.runs import restart, supervisor
from overspan.runs.restart import FreeMemory, Restarts
from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Gpu, Host, Inventory
from overspan.schema.plan import Placement, Plan
from overspan.store.run_folder import RunFolder
from overspan.transport.fake import Fake, Reply
from overspan.verify import known_answers
from support.runs import Answering, Calm, Quiet, a_plan


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Quiet:
    launcher = Quiet(a_plan(1))
    monkeypatch.chdir(tmp_path)  # the supervisor goes to the run's folder
    monkeypatch.setattr(supervisor, "launcher_of", lambda *_: launcher)
    monkeypatch.setattr(supervisor, "Signals", lambda _: Calm())
    monkeypatch.setattr(supervisor, "Client", Answering)
    return launcher


def staged(**recipe: object) -> RunFolder:
    run = RunFolder.create("watched")
    run.write("plan.json", a_plan(1, **recipe))
    run.write("processes.json", [])
    run.append("staged", state="staged")
    return run


def test_an_error_of_the_probe_that_nobody_expects_ends_the_run_and_is_told(
    own: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise KeyError("logits")

    monkeypatch.setattr(known_answers, "ask", ask)
    run = staged()
    with pytest.raises(KeyError):
        supervisor.supervise(run, 1)
    last = run.last_state()
    assert (last.state, last.message) == ("failed", "the supervisor failed: KeyError('logits')")
    assert own.ended


def test_restarts_are_counted_from_the_last_hour_of_service(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(restart, "time", SimpleNamespace(monotonic=lambda: now.s))
    restarts = Restarts(3)
    assert [restarts.pause_s() for _ in range(3)] == [2.0, 4.0, 8.0]
    restarts.serving()
    now.s += restart.HEALTHY_S - 1
    restarts.serving()
    assert restarts.pause_s() is None, "short of an hour it is the same row of deaths"
    restarts.serving()
    now.s += restart.HEALTHY_S
    assert restarts.pause_s() == 2.0
    now.s += 10 * restart.HEALTHY_S
    assert restarts.pause_s() == 4.0, "time in which it did not serve is no health"


def meminfo(free_gib: int) -> Reply:
    size = f"{free_gib << 20} kB"
    text = f"MemTotal: {1000 << 20} kB\nMemFree: {size}\nMemAvailable: {size}\n"
    return Reply(argv=["cat", "/proc/meminfo"], stdout=text)


def gpus(*used_mib: int) -> Reply:
    rows = (f"{index}, 0, 70, {used}, 40\n" for index, used in enumerate(used_mib))
    return Reply(argv=list(GPU_LOAD.argv), stdout="".join(rows))


def on(host: Host, *gpu: int) -> Plan:
    inventory = Inventory(hosts=[host], launcher="docker", device="cuda" if gpu else "cpu")
    placement = Placement(process="rank0", host=host.name, ranks=list(range(len(gpu) or 1)), gpus=list(gpu))
    return a_plan(1).with_(inventory=inventory, placements=[placement])


DISCRETE = [Gpu(index=index, kind="h200", memory_bytes=140 << 30) for index in range(3)]
UNIFIED = [Gpu(index=0, kind="gb10", memory_bytes=128 << 30, unified_memory=True)]


def waits(monkeypatch: pytest.MonkeyPatch, plan: Plan, script: list[Reply]) -> Callable[[], int]:
    """How often the wait for memory looked again; it has a second for each look."""
    slept: list[float] = []
    monkeypatch.setattr(restart, "time", SimpleNamespace(monotonic=lambda: float(len(slept)), sleep=slept.append))
    ways: Mapping[str, Fake] = {"n": Fake("n", script)}
    memory = FreeMemory(plan, ways)

    def wait() -> int:
        memory.wait(lambda: False)
        return len(slept)

    return wait


@pytest.mark.parametrize(
    ("devices", "placed", "script"),
    [
        ([], (), [meminfo(900), meminfo(100), meminfo(600), meminfo(880)]),
        (UNIFIED, (0,), [meminfo(110), meminfo(20), meminfo(60), meminfo(108)]),
        (DISCRETE, (0, 1), [meminfo(900), *map(gpus, (500, 130_000, 500, 600), (500, 500, 9_000, 500))]),
    ],
)
def test_a_restart_waits_until_the_memory_of_its_devices_is_free_again(
    monkeypatch: pytest.MonkeyPatch, devices: list[Gpu], placed: tuple[int, ...], script: list[Reply]
) -> None:
    plan = on(Host(name="n", memory_bytes=1000 << 30, gpus=devices), *placed)
    assert waits(monkeypatch, plan, script)() == 2


def test_a_gpu_that_stays_full_ends_the_wait_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = on(Host(name="n", memory_bytes=1000 << 30, gpus=DISCRETE), 0, 1)
    wait = waits(monkeypatch, plan, [meminfo(900), gpus(500, 500, 0), gpus(500, 100_500, 0)])
    with pytest.raises(OverspanError, match=r"no restart: 97\.7 GiB of GPU 1 of n are not free again"):
        wait()


def test_neither_gpus_of_others_nor_what_cannot_be_read_hold_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = on(Host(name="n", memory_bytes=1000 << 30, gpus=DISCRETE), 0)
    blind = Reply(argv=list(GPU_LOAD.argv), missing="nvidia-smi")
    assert waits(monkeypatch, plan, [meminfo(900), gpus(500, 500, 500), gpus(500, 130_000, 130_000)])() == 0
    assert waits(monkeypatch, plan, [meminfo(900), blind])() == 0


def test_memory_that_was_told_before_the_launch_and_is_not_any_more_holds_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = on(Host(name="n", memory_bytes=1000 << 30, gpus=DISCRETE), 0)
    lost = Reply(argv=list(GPU_LOAD.argv), code=15, stderr="Unable to determine the device handle for GPU: GPU is lost")
    with pytest.raises(OverspanError, match="no restart: GPU 0 of n does not tell its memory any more"):
        waits(monkeypatch, plan, [meminfo(900), gpus(500, 500, 500), lost])()


def test_what_a_restart_could_not_end_is_still_told_when_the_run_is_stopped_meanwhile(
    own: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.dying = [Death(process="api", host="here", what="api (pid 1)", code=1)]
    own.left = ["node2 does not answer"]
    signals = Calm()
    monkeypatch.setattr(supervisor, "Signals", lambda _: signals)
    monkeypatch.setattr(signals, "sleep", lambda _: setattr(signals, "ended", lambda: True))
    run = staged(restart=1)
    supervisor.supervise(run, 1)
    assert (run.state(), run.last_state().data["left"]) == ("stopped", ["node2 does not answer"])


def test_the_supervisor_launches_again_only_after_the_wait_for_memory(
    own: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    run = staged(restart=1)

    def start(*_: object) -> None:
        told.append("start")
        own.dying.append(Death(process="api", host="here", what="api (pid 1)", code=1))

    memory = SimpleNamespace(wait=lambda _: told.append(run.state()))
    monkeypatch.setattr(supervisor, "FreeMemory", lambda *_: memory)
    monkeypatch.setattr(own, "start_all", start)
    supervisor.supervise(run, 1)
    assert told == ["start", "restarting", "start"]
    assert run.state() == "failed"
