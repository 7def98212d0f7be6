"""A run of a real engine, started as a user starts it."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import psutil

from overspan.launchers import proc
from overspan.store.run_folder import RunFolder, open_run
from support.waiting import until

Overspan = Callable[..., subprocess.CompletedProcess[str]]


class Live:
    """A run of a real engine."""

    def __init__(self, overspan: Overspan, name: str, *settings: str) -> None:
        self.overspan = overspan
        done = overspan("up", "smollm2-135m", "--name", name, "--set", "port=0", *settings, "--json")
        self.status: dict[str, Any] = json.loads(done.stdout)
        self.folder: RunFolder = open_run(self.status["run"])

    def family(self) -> dict[str, psutil.Process]:
        """The run's living processes, by what they are."""
        record = self.folder.note("supervisor.json")
        names = {record["pid"]: "supervisor", record["guardian"]: "guardian"}
        found = {}
        for process in proc.in_session(record["session"]):
            title = proc.title(process)
            kind = names.get(process.pid) or ("api" if " serve " in title else title.removeprefix("VLLM::").split()[0])
            found[kind] = process
        return found

    def nothing_left(self) -> None:
        until(lambda: not self.family(), "the end of every process", timeout_s=60)
