import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from overspan.launchers import proc
from overspan.runs.stop import stop
from overspan.store.run_folder import RunFolder, all_runs
from support.fake_env import make_engine, make_model, make_recipe
from support.shell import Done, run_overspan, start_overspan


@dataclass
class Shell:
    """A user's shell on a machine with the fake engine installed."""

    home: Path
    recipe: Path

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return start_overspan(*arguments, env=env)

    def run(self, *arguments: str, **env: str) -> Done:
        return run_overspan(*arguments, env=env)

    def runs(self) -> list[RunFolder]:
        return all_runs()

    def processes(self) -> list[psutil.Process]:
        """Every living process of every run."""
        sessions = [run.note("supervisor.json").get("session") for run in self.runs()]
        guardians = [
            process
            for process in psutil.process_iter()
            if "overspan.runs.guardian" in proc.title(process) and str(self.home) in proc.title(process)
        ]
        return guardians + [process for session in sessions if session for process in proc.in_session(session)]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))
    make_engine(tmp_path / "cache")
    recipe = make_recipe(tmp_path / "tiny.yaml", make_model(tmp_path / "model"))
    shell = Shell(tmp_path, recipe)
    yield shell
    for run in shell.runs():
        stop(run, grace_s=0)


Refused = Callable[..., str]


@pytest.fixture
def refused(shell: Shell) -> Refused:
    """Run a command that must be refused: exit code 2, one error, nothing started. Gives stderr."""

    def check(*arguments: str, **env: str) -> str:
        before = [run.id for run in shell.runs()]
        done = shell.run(*arguments, **env)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("error:") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert [run.id for run in shell.runs()] == before
        return done.stderr

    return check
