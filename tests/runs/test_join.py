"""Hosts that start apart: which part is whose, what must be equal, and what one host hears of another's deaths."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from overspan.launchers.base import Death
from overspan.planner.make import make_plan
from overspan.runs import supervisor
from overspan.runs.join import facts, member, ranks, server
from overspan.runs.join.member import call, hello_of
from overspan.runs.join.messages import JoinAnswer, JoinConnection, Lost, News
from overspan.runs.join.server import JoinServer
from overspan.runs.up import _require_head
from overspan.schema.errors import HostUnreachable, InputError, PlanRefused
from overspan.schema.inventory import Fabric, Host, Inventory, Ssh
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.recipe import Recipe
from overspan.store.run_folder import RunFolder
from support.runs import Answering, Calm, Quiet, free_port
from support.waiting import until


def inventory(*addresses: str) -> Inventory:
    hosts = [
        Host(
            name=f"node{number}",
            memory_bytes=1,
            ssh=Ssh(address=f"192.168.7.{number}"),
            fabric=Fabric(interface="eth0", address=address),
        )
        for number, address in enumerate(addresses, 1)
    ]
    return Inventory(name="pair", hosts=hosts)


def plan_for(place: str, part: ranks.Part, hosts: Inventory | None = None, **fields: object) -> Plan:
    """The plan as a host at an address makes it."""
    found, me = ranks.at_home(hosts or inventory("10.0.0.1", "10.0.0.2"), {place})
    recipe = Recipe.model_validate({"name": "fake", "model": "fake", "layout": "pp2", "port": 8020, **fields})
    return ranks.part_of(make_plan(recipe, found, EngineChoice(name="vllm", version="0")), me, part)


def test_each_host_starts_its_own_part() -> None:
    head, worker = plan_for("10.0.0.1", "head"), plan_for("10.0.0.2", "joiner")
    assert ([each.process for each in head.own], [each.process for each in head.awaited]) == (["api"], ["worker1"])
    assert ([each.process for each in worker.own], worker.is_joiner, head.is_joiner) == (["worker1"], True, False)
    # Here is no host that ssh leads to.
    assert [host.ssh is None for host in worker.inventory.hosts] == [False, True]
    assert ranks.at_home(inventory("10.0.0.1", "10.0.0.2"), {"192.168.7.2"})[1] == "node2"


@pytest.mark.parametrize(
    ("address", "part", "told"),
    [
        (
            "10.0.0.9",
            "joiner",
            "this machine (10.0.0.9) is not a host of pair; its hosts: node1 (10.0.0.1, 192.168.7.1)",
        ),
        ("10.0.0.1", "joiner", "this machine is node1, the head itself"),
        ("10.0.0.2", "head", "this machine is node2, and the head is node1"),
        ("10.0.0.3", "joiner", "this machine is node3, which has no rank; ranks are on node1, node2"),
    ],
)
def test_a_machine_without_that_part_is_told_why(address: str, part: ranks.Part, told: str) -> None:
    hosts = (
        inventory("10.0.0.1", "10.0.0.2") if address == "10.0.0.9" else inventory("10.0.0.1", "10.0.0.2", "10.0.0.3")
    )
    hosts = hosts.with_(hosts=[host.with_(cores=1) for host in hosts.hosts])
    with pytest.raises(InputError) as error:
        plan_for(address, part, hosts)
    assert told in str(error.value)


def test_one_host_alone_and_a_host_without_a_fabric_are_refused() -> None:
    with pytest.raises(PlanRefused, match="nothing is left for others"):
        plan_for("10.0.0.1", "head", layout="tp1")
    hosts = inventory("10.0.0.1", "10.0.0.2")
    blind = hosts.with_(hosts=[hosts.hosts[0].with_(fabric=None), hosts.hosts[1]])
    with pytest.raises(InputError, match="node1 of pair has no fabric"):
        ranks.at_home(blind, {"10.0.0.2"})


def test_another_head_than_the_plans_is_refused() -> None:
    plan = plan_for("10.0.0.2", "joiner")
    for name in ("node1", "10.0.0.1", "192.168.7.1"):
        _require_head(plan, name)
    with pytest.raises(InputError, match=r"the head of this plan is node1 \(10.0.0.1\), not node2"):
        _require_head(plan, "node2")


def test_what_differs_is_named_and_what_may_differ_is_not() -> None:
    head = facts.of(plan_for("10.0.0.1", "head"))
    assert facts.differences(head, facts.of(plan_for("10.0.0.2", "joiner"))) == []
    other = facts.of(plan_for("10.0.0.2", "joiner", engine_args={"max_model_len": 512}, env={"A": "b"}))
    assert facts.differences(head, other) == [
        ("recipe.engine_args.max_model_len", "none", "512"),
        ("recipe.env.A", "none", "b"),
    ]


# over a connection --------------------------------------------------------------------------------------------------


@dataclass
class Meeting:
    server: JoinServer
    head: RunFolder
    worker: RunFolder
    worker_plan: Plan
    own: Quiet
    port: int

    def ask(self, **changes: object) -> JoinConnection:
        return call(self.worker_plan, hello_of(self.worker, self.worker_plan).with_(**changes))[0]


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    port = free_port()
    monkeypatch.setattr(server, "JOIN_PORT", port)
    monkeypatch.setattr(member, "JOIN_PORT", port)
    hosts = inventory("127.0.0.1", "127.0.0.2")
    base = plan_for("192.168.7.1", "head", hosts), plan_for("192.168.7.2", "joiner", hosts)
    folders = RunFolder.create("head"), RunFolder.create("worker")
    for folder, plan in zip(folders, base, strict=True):
        folder.write("plan.json", plan)
        folder.append("staged", state="staged")
        folder.record(facts.FILE, facts.of(plan))
    own = Quiet(base[0])
    made = JoinServer(folders[0], base[0], own)
    yield Meeting(made, *folders, base[1], own, port)
    if not folders[0].ended:
        folders[0].append("stopped", state="stopped")
    made.close()


def test_the_head_waits_until_all_have_joined_and_passes_its_events_on(meeting: Meeting) -> None:
    waiting = threading.Thread(target=meeting.server.gather, args=(30.0, lambda: False))
    waiting.start()
    meeting.ask(only_ask=True).close()  # a question takes no seat
    line = meeting.ask(seen=1)
    waiting.join(30.0)
    assert not waiting.is_alive()
    meeting.head.append("launching", state="launching")
    heard: list[News] = []
    while not heard or heard[-1].state != "launching":
        news = line.receive(News, 10.0)
        assert news is not None
        heard.append(news)
    assert any("overspan join 127.0.0.1" in one.message for one in heard)
    with pytest.raises(InputError, match="node2 has joined already"):
        meeting.ask()
    line.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "node7"}, "this run awaits node2, not node7"),
        ({"run": "fake-1"}, "run fake-1 is over"),
        ({"facts": {}}, "overspan: 0"),
    ],
)
def test_who_may_not_join_is_told_why(meeting: Meeting, changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError) as error:
        meeting.ask(**changes)
    assert told in str(error.value)


def test_the_first_death_is_named_wherever_it_was(meeting: Meeting) -> None:
    line = meeting.ask()
    meeting.own.dying = [Death(process="api", host="node1", what="api (pid 7)")]
    line.send(News(death=Death(process="x", host="y", what="VLLM::Worker (pid 9)", lines=["boom"]), age_s=5.0))
    deaths = meeting.server.wait(1.0)
    assert [(death.process, death.host, death.what) for death in deaths] == [
        ("worker1", "node2", "VLLM::Worker (pid 9)"),
        ("api", "node1", "api (pid 7)"),
    ]
    assert deaths[0].lines == ["boom"]
    line.close()


def test_a_supervisor_that_left_without_a_word_is_a_death_unless_it_returns(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GONE_S", 1.0)
    line = meeting.ask()
    line.close()
    until(lambda: meeting.head.note(server.SEATS) == {"node2": "unknown"}, "the seat to be empty")
    line = meeting.ask(run=meeting.head.id)
    until(lambda: meeting.head.note(server.SEATS) == {"node2": "running"}, "the seat to be taken")
    line.close()
    deaths = until(lambda: meeting.server.wait(0.1), "the death")
    assert [(death.process, death.what) for death in deaths] == [("worker1", "its supervisor")]


def test_another_address_than_the_inventorys_is_refused(meeting: Meeting) -> None:
    line = JoinConnection.to("127.0.0.1", meeting.port, 5.0, own="127.0.0.3")
    line.send(hello_of(meeting.worker, meeting.worker_plan).with_(facts={"recipe": "a guess"}))
    answer = line.receive(JoinAnswer, 10.0)
    line.close()
    assert answer is not None
    assert answer.refused == "the head's inventory has node2 at 127.0.0.2, not at 127.0.0.3"
    assert answer.differs == []  # whoever that is learns nothing of the plan


def test_noise_on_the_port_harms_nobody(meeting: Meeting) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"\0" * 4096 + b"\n"):
        line = JoinConnection.to("127.0.0.1", meeting.port, 5.0, own="127.0.0.2")
        line._socket.sendall(noise)
        with contextlib.suppress(Lost):
            assert line.receive(News, 10.0) is None
        line.close()
    meeting.ask().close()


def test_nobody_at_the_head_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "JOIN_PORT", free_port())
    plan = plan_for("192.168.7.2", "joiner", inventory("127.0.0.1", "127.0.0.2"))
    with pytest.raises(HostUnreachable) as error:
        member.reach_head(plan)
    assert "no run awaits hosts there" in error.value.what
    assert "--join-later" in str(error.value.next)


def test_a_joined_host_starts_and_ends_with_the_heads_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = free_port()
    for module in (server, member):
        monkeypatch.setattr(module, "JOIN_PORT", port)
    hosts = inventory("127.0.0.1", "127.0.0.2")
    plans = [plan_for("192.168.7.1", "head", hosts, restart=1), plan_for("192.168.7.2", "joiner", hosts, restart=1)]
    runs, launchers = [RunFolder.create("head"), RunFolder.create("worker")], list(map(Quiet, plans))
    for run, plan in zip(runs, plans, strict=True):
        run.write("plan.json", plan)
        run.write("processes.json", [])
        run.append("staged", state="staged")
        run.record(facts.FILE, facts.of(plan))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "launcher_of", lambda plan, run: launchers[plan.is_joiner])
    monkeypatch.setattr(supervisor, "Signals", lambda _: Calm())
    monkeypatch.setattr(supervisor, "Client", Answering)
    monkeypatch.setattr(supervisor, "FreeMemory", lambda *_: SimpleNamespace(wait=lambda _: None))
    threads = [threading.Thread(target=supervisor.supervise, args=(run, 1), daemon=True) for run in runs]
    threads[0].start()
    until(lambda: any("waiting for node2" in event.message for event in runs[0].events()), "the head to wait")
    threads[1].start()
    for death in range(2):
        for run in runs:
            until(lambda: [each.settles for each in run.events()].count(True) == death + 1, "the verdict")  # noqa: B023
        launchers[1].dying = [Death(process="worker1", host="node2", what="VLLM::Worker (pid 9)", code=-9)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    again = ["launching", "ready", "ready"]  # the recipe has no known answer
    assert [each.state for each in runs[0].events() if each.state] == ["staged", *again, "restarting", *again, "failed"]
    assert [each.state for each in runs[1].events() if each.state] == ["staged", *again, "restarting", *again, "failed"]
    assert runs[0].last_state().message == "VLLM::Worker (pid 9) on node2 was ended by signal 9 (rank 1)"
    assert runs[1].last_state().message == f"the head's run: {runs[0].last_state().message}"
    assert [launcher.ended for launcher in launchers] == [True, True]


def test_connections_that_say_nothing_are_few_and_leave_nothing(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HELLO_S", 120.0)
    before = threading.active_count()
    silent = [JoinConnection.to("127.0.0.1", meeting.port, 5.0, own="127.0.0.3") for _ in range(60)]
    try:
        until(lambda: _is_closed(silent[-1]), "the last of them to be sent away")
        assert threading.active_count() - before <= 1 + server._STRANGERS
    finally:
        for line in silent:
            line.close()
    until(lambda: threading.active_count() <= before, "the end of the others")
    assert not meeting.server._attending
    meeting.ask(only_ask=True).close()


def _is_closed(line: JoinConnection) -> bool:
    try:
        return line.receive(News, 0.01) is not None
    except Lost:
        return True
