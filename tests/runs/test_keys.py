"""The key of a run: sent by all that asks its endpoint, found in one private file alone, and gone with the run."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from overspan.cli.main import main
from overspan.runs.stop import stop
from overspan.runs.up import launch as launch_run
from overspan.schema.errors import InputError
from overspan.schema.process import ProcessSpec
from overspan.store import run_secrets
from overspan.store.locks import NameLock, is_held
from overspan.store.run_folder import RunFolder
from support.keyed_server import Keyed
from support.openai_server import plain, steady
from support.runs import ENGINE, FakeRun, a_plan, free_port, kill
from support.waiting import until

KEY = "k3y-'of\"-the-run"


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_API_KEY", KEY)


def a_keyed_run(port: int) -> RunFolder:
    folder = RunFolder.create("keyed")
    plan = a_plan(port, api_key=True, served_model_name="mock")
    folder.write("plan.json", plan)
    folder.append("ready", state="ready")
    run_secrets.make(folder, plan, run_secrets.API_KEY, [])
    return folder


def holders(folder: Path, key: str = KEY) -> list[str]:
    """Every file below the folder that holds the key, as it is or as JSON has it."""
    forms = [key.encode(), key.replace('"', '\\"').encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(form in path.read_bytes() for form in forms)]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


BENCH = ("-c", "2", "--requests", "4", "--input-tokens", "20", "--output-tokens", "4", "--no-calibration")


def test_bench_sends_the_runs_key_and_writes_it_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(body: dict[str, Any], send: Callable[[bytes], None], number: int) -> None:
        """An endpoint that turns against its client half-way, and quotes the key."""
        refusal = plain("401 Unauthorized", b'{"error": "bad key %b"}' % KEY.encode().replace(b'"', b'\\"'))
        steady()(body, send, number) if number < 3 else send(refusal)

    server = Keyed(KEY, quoting)
    folder = a_keyed_run(server.port)
    monkeypatch.setenv("OVERSPAN_API_KEY", "another")
    try:
        assert call("bench", folder.id, *BENCH) == 0
    finally:
        server.close()
    shown = capsys.readouterr()
    assert len(server.requests) == 5
    assert any("GET /metrics" in head for head in server.heads)
    assert '"http_401"' in (folder.path / "requests-2.jsonl").read_text()
    assert "bad key [removed]" in (folder.path / "requests-2.jsonl").read_text()
    assert holders(folder.path) == ["secrets.json"]
    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert KEY not in shown.out + shown.err


@pytest.mark.parametrize("command", [("bench", *BENCH), ("chat", "-p", "hello")])
def test_a_refusal_that_quotes_the_key_is_told_without_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    server = Keyed("the-server-has-another")
    folder = a_keyed_run(server.port)
    lock = NameLock("keyed")
    lock.take(folder.id)
    try:
        assert call(command[0], folder.id, *command[1:]) in (1, 2)
    finally:
        lock.close()
        server.close()
    shown = capsys.readouterr()
    assert "401" in shown.err
    assert "k3y" not in shown.out + shown.err
    assert any(f"Bearer {KEY}" in head for head in server.heads)


@pytest.mark.parametrize("key", ["two words", "line\r\nX-Evil: 1", "schlüssel", "nul\0"])
def test_a_key_that_no_header_carries_is_refused_unquoted(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "OVERSPAN_API_KEY": key})  # NUL too, as no real one has
    folder = RunFolder.create("keyed")
    with pytest.raises(InputError) as caught:
        run_secrets.make(folder, a_plan(1, api_key=True), run_secrets.API_KEY, [])
    assert key not in str(caught.value)
    assert list(folder.path.glob("secrets*")) == []


@pytest.fixture
def keyed() -> Iterator[FakeRun]:
    """A whole run of the fake engine, which asks for the key that it is given."""
    port = free_port()
    folder = a_keyed_run(port)
    lock = NameLock("keyed")
    lock.take(folder.id)
    argv = [sys.executable, str(ENGINE), str(port)]
    api = ProcessSpec(name="api", host="here", argv=argv, vital_titles=["VLLM::*"], secrets=[run_secrets.API_KEY])
    folder.write("processes.json", [api])
    launch_run(folder, lock)
    lock.close()
    until(lambda: folder.note("supervisor.json") or folder.ended, "the supervisor's record")
    yield FakeRun(folder)
    FakeRun(folder).end()


def test_the_engine_gets_the_key_in_its_environment_alone_and_the_key_ends_with_the_run(keyed: FakeRun) -> None:
    keyed.wait_for("verified")
    family = keyed.whole_family()
    assert family["api"].environ()[run_secrets.API_KEY] == KEY
    assert not any(KEY in word for process in family.values() for word in process.cmdline())
    assert holders(keyed.folder.path) == ["secrets.json"]
    stop(keyed.folder)
    assert holders(keyed.folder.path) == []
    assert not (keyed.folder.path / "secrets.json").exists()


@pytest.mark.parametrize("victim", ["Worker", "supervisor", "guardian"])
def test_the_key_is_gone_after_any_death(keyed: FakeRun, victim: str) -> None:
    keyed.wait_for("verified")
    kill(keyed.whole_family()[victim])
    keyed.wait_for("failed")
    until(lambda: not is_held("keyed"), "the end of the run's processes")
    assert not (keyed.folder.path / "secrets.json").exists()


def test_stop_removes_the_key_of_a_run_whose_keepers_were_killed(keyed: FakeRun) -> None:
    family: dict[str, psutil.Process] = keyed.whole_family()
    family["guardian"].suspend()
    kill(family["supervisor"])
    kill(family["guardian"])
    stop(keyed.folder)
    assert not (keyed.folder.path / "secrets.json").exists()
    keyed.nothing_left()
