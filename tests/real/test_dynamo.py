"""NVIDIA Dynamo with real vLLM workers on this machine: the cache goes from prefill to decode over NIXL."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from overspan.catalog import recipes
from overspan.launchers import proc
from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.schema.recipe import RoleSettings
from overspan.schema.yamlio import dump
from overspan.store.run_folder import RunFolder, all_runs
from support.live import Live, Overspan
from support.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]

PROMPTS = [
    "The capital of France is a city that lies on the river Seine and has been the seat of kings, and its name is",
    "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
    " ".join(["The quick brown fox jumps over the lazy dog."] * 20),
]
SMALL = ("--set", "max_model_len=512")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine, with Dynamo's environment for plain vLLM too: the same version gives the tokens to compare with."""
    try:
        environment = engines.find("dynamo").path
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")
    hosts = [{"name": "here", "memory_bytes": 16 << 30, "cores": 2}]
    data = {"name": "here", "device": "cpu", "engine_environment": str(environment), "hosts": hosts}
    file = tmp_path_factory.mktemp("machine") / "here.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def tokens(run: RunFolder) -> list[str]:
    endpoint = run.plan().endpoint
    body = {"model": endpoint.model, "max_tokens": 24, "temperature": 0}
    url = f"{endpoint.base_url}/completions"
    replies = [httpx.post(url, json={**body, "prompt": prompt}, timeout=120, trust_env=False) for prompt in PROMPTS]
    return [reply.raise_for_status().json()["choices"][0]["text"] for reply in replies]


def workers(run: RunFolder, role: str) -> list[psutil.Process]:
    """The API processes of one role's workers."""
    there = proc.in_session(run.note("supervisor.json")["session"])
    return [each for each in there if {"dynamo.vllm", role} <= set(each.cmdline())]


def test_apart_answers_as_one_engine_does_and_a_killed_worker_is_named(
    live: Callable[..., Live], overspan: Overspan, machine: Path
) -> None:
    whole = live("whole", "--on", str(machine), *SMALL)
    expected = tokens(whole.folder)
    overspan("stop", whole.folder.id)
    for topology, decode in (("1P1D TP1->TP1", 1), ("1P2D TP1->TP1", 2)):
        run = live(f"apart{decode}", "--set", "engine=dynamo", "--set", f"topology={topology}", *SMALL)
        found = {finding.rule: finding.evidence.text for finding in run.folder.findings() if finding.evidence}
        assert found["disagg.instances"] == f"registered: 1 of 1 prefill, {decode} of {decode} decode"
        taken = re.fullmatch(r"a decode worker took over (\d+) tokens, (\d+) blocks of (\d+)", found["disagg.transfer"])
        assert taken, found
        assert int(taken[2]) == int(taken[1]) // int(taken[3]) > 0
        assert [tokens(run.folder) for _ in range(decode)] == [expected] * decode
        if decode == 1:
            overspan("stop", run.folder.id)
            run.nothing_left()
    victim = workers(run.folder, "decode")[0]
    victim.kill()
    until(lambda: run.folder.state() == "failed", "the state failed")
    last = run.folder.last_state()
    assert last.process in ("decode0", "decode1")
    assert "signal 9" in last.message
    assert last.data["lines"]
    run.nothing_left()


def test_a_transfer_that_cannot_be_fails_and_answers_nothing(overspan: Overspan, tmp_path: Path) -> None:
    """The workers compute in different types, so that NIXL's handshake refuses: no token may come, wrong or right."""
    roles = {"decode": RoleSettings(engine_args={"dtype": "float32"})}
    changes = {"name": "broken", "roles": roles, "port": 0, "topology": "1P1D TP1->TP1", "engine": "dynamo"}
    recipe = recipes.find("smollm2-135m").with_(**changes, ready_timeout_s=300)
    file = tmp_path / "broken.yaml"
    file.write_text(dump(recipe))
    done: subprocess.CompletedProcess[str] = overspan("up", str(file), *SMALL, check=False)
    assert done.returncode == 1, done.stderr
    run = next(run for run in all_runs() if run.id.startswith("broken"))
    assert run.state() == "failed"
    assert "ready" not in {event.state for event in run.events()}
    assert "HTTP 5" in str(run.last_state().data["lines"])
    until(lambda: not proc.in_session(run.note("supervisor.json")["session"]), "the end of every process")
