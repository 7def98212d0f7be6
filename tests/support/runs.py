"""Runs of the fake engine: the real guardian, supervisor and launcher around a small process family."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from overspan.launchers import proc
from overspan.launchers.base import Death, Launcher, Member
from overspan.planner.make import make_plan
from overspan.runs.stop import stop
from overspan.runs.up import launch
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import KnownAnswer, Recipe
from overspan.schema.secrets import Secret
from overspan.store.locks import NameLock
from overspan.store.run_folder import RunFolder
from support.waiting import until

ENGINE = Path(__file__).with_name("fake_engine.py")
KNOWN = [KnownAnswer(prompt="What is the capital of France?", expect="Paris")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_plan(port: int, **fields: Any) -> Plan:
    recipe = Recipe(
        name="fake",
        model="fake",
        port=port,
        drain_timeout_s=5,
        **{"known_answers": KNOWN, **fields},
    )
    inventory = Inventory(hosts=[Host(name="here", memory_bytes=1)])
    return make_plan(recipe, inventory, EngineChoice(name="vllm", version="0"))


@dataclass
class FakeRun:
    folder: RunFolder

    def family(self) -> dict[str, psutil.Process]:
        """The run's living processes by what they are."""
        record = self.folder.note("supervisor.json")
        if not record:
            return {}
        names = {record["pid"]: "supervisor", record["guardian"]: "guardian"}
        found = {}
        for process in proc.in_session(record["session"]):
            title = proc.title(process)
            kind = names.get(process.pid) or title.split(" ")[0].removeprefix("VLLM::")
            found["api" if "fake_engine.py" in title and kind not in names.values() else kind] = process
        return found

    def whole_family(self) -> dict[str, psutil.Process]:
        members = {"guardian", "supervisor", "api", "EngineCore", "Worker"}
        until(lambda: members <= self.family().keys(), "the whole family")
        until(lambda: any(event.settles for event in self.folder.events()), "a verdict")
        return self.family()

    def state(self) -> str:
        return self.folder.state()

    def wait_for(self, *states: str) -> str:
        return until(lambda: self.state() if self.state() in states else "", f"state {states}")

    def nothing_left(self) -> None:
        until(lambda: not self.family(), "the end of every process")

    def end(self) -> None:
        stop(self.folder, grace_s=0)


def fake_run(name: str, *engine: str, **fields: Any) -> FakeRun:
    port = free_port()
    folder = RunFolder.create(name)
    lock = NameLock(name)
    lock.take(folder.id)
    folder.write("plan.json", a_plan(port, **fields))
    argv = [sys.executable, str(ENGINE), str(port), *engine]
    folder.write("processes.json", [ProcessSpec(name="api", host="here", argv=argv, vital_titles=["VLLM::*"])])
    folder.append("planned", state="planned")
    launch(folder, lock)
    lock.close()
    until(lambda: folder.note("supervisor.json") or folder.ended, "the supervisor's record")
    return FakeRun(folder)


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, 9)


class Quiet(Launcher):
    """A launcher whose processes die when a test says so."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.dying: list[Death] = []
        self.left: list[str] = []
        self.ended = False

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        pass

    def wait(self, timeout_s: float) -> list[Death]:
        dying, self.dying = self.dying, []
        return dying

    def members(self) -> list[Member]:
        return []

    def end(self, grace_s: float) -> list[str]:
        self.ended = True
        return self.left


class Calm:
    """Signals that never come."""

    stop = alone = False
    guardian = 1

    def ended(self) -> bool:
        return False

    def sleep(self, seconds: float) -> None: ...


class Answering:
    """An endpoint's client that gets a token at once, and an answer to a chat."""

    model = "m"

    def __init__(self, *_: object) -> None: ...

    def one_token(self) -> str:
        return "a"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...
