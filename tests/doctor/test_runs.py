"""`overspan doctor RUN`, on run folders as `up` leaves them."""

from __future__ import annotations

import json
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overspan.cli.doctor import doctor
from overspan.schema.event import Event
from overspan.schema.process import ProcessSpec
from overspan.store.run_folder import RunFolder
from support import run_documents

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
DEAD = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."
PLANTED = {
    "hf_PlantedPlantedPlanted1": "HF_TOKEN=hf_PlantedPlantedPlanted1",
    "planted-bearer-2222": "> Authorization: Bearer planted-bearer-2222",
    "cGxhbnRlZDpiYXNpYw==": "DEBUG headers: {'Authorization': 'Basic cGxhbnRlZDpiYXNpYw=='}",
    "planted-api-key-3333": "INFO non-default args: {'api_key': ['planted-api-key-3333'], 'port': 8000}",
    "planted-password-4": "GET https://bob:planted-password-4@mirror.example/v2/",
    "planted-query-5555": "GET https://hub.example/api?token=planted-query-5555&revision=main",
    "nvapi-planted66666": "docker login nvcr.io -p nvapi-planted66666",
    "wandb-planted-7777": "WANDB_API_KEY: wandb-planted-7777",
    "planted-aws-8888": "export AWS_SECRET_ACCESS_KEY='planted-aws-8888'",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Two ranks on two hosts; rank1 died first, of memory; the head's log shows only that its engine is dead."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    folder = RunFolder.create("pair")
    folder.write("plan.json", run_documents.gpu_plan())
    env = {"HF_TOKEN": "hf_PlantedPlantedPlanted1", "NCCL_DEBUG": "INFO"}
    argv = ["vllm", "serve", "m", "--api-key", "planted-api-key-3333", "--port", "8000"]
    specs = [ProcessSpec(name=f"rank{n}", host=f"spark{n + 1}", argv=argv, env=env, ranks=[n]) for n in (0, 1)]
    folder.write("processes.json", specs)
    folder.log("rank0").write_text("\n".join([*PLANTED.values(), DEAD]) + "\n")
    folder.log("rank1").write_text(f"INFO loading\n{OOM}\n")
    died = [
        Event(at=run_documents.START + timedelta(seconds=9 + n), message=f"{name} ended with 1", process=name,
              host=host, data={"code": 1}, state="failed" if n else None)
        for n, (name, host) in enumerate([("rank1", "spark2"), ("rank0", "spark1")])
    ]  # fmt: skip
    lines = [event.model_dump_json(exclude_defaults=True) for event in died]
    (folder.path / "events.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _doctor(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, list(arguments), standalone_mode=False)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_rank_that_died_first_has_the_root_with_host_file_line_and_fix(run: RunFolder) -> None:
    before = _content(run.path)
    result = _doctor(run.id, "--json", "--all")
    findings = json.loads(result.stdout)
    root = findings[0]
    matter = json.loads(_doctor(run.id, "--json").stdout)
    assert matter == [each for each in findings if each["status"] == "failed" or each["evidence"]] and len(matter) < 9
    assert result.return_value == 1
    assert (root["rule"], root["role"], root["evidence"]["host"]) == ("cuda-oom-load", "root", "spark2")
    assert (root["evidence"]["line"], root["evidence"]["text"], root["evidence"]["rank"]) == (2, OOM, 1)
    assert root["evidence"]["file"].endswith("logs/rank1.log") and root["confidence"] > 0.5
    assert "acme/tiny-135m" in root["fix"]
    assert {finding["status"] for finding in findings} == {"failed", "passed", "not_evaluated"}
    assert all(finding["cause"] for finding in findings if finding["status"] == "not_evaluated")
    assert next(finding for finding in findings if finding["rule"] == "engine-dead")["role"] == "consequence"
    assert _content(run.path) == before


def test_the_text_begins_with_the_cause(run: RunFolder) -> None:
    said = _doctor(run.id).stdout
    assert said.startswith("cause: ") and "[cuda-oom-load]" in said.splitlines()[0] and f"| {OOM}" in said


def test_an_unknown_failure_of_a_run_shows_each_ranks_first_anomaly(run: RunFolder) -> None:
    run.log("rank0").write_text("INFO fine\nERROR 11-22 10:00:09 [a.py:1] the flux is inverted\n")
    run.log("rank1").write_text("ERROR 11-22 10:00:07 [a.py:1] the widget is bent\n")
    first = json.loads(_doctor(run.id, "--json").stdout)[0]
    assert (first["rule"], first["status"]) == ("unknown-failure", "failed")
    assert [item["text"] for item in [first["evidence"], *first["more"]]][:2] == [
        "the widget is bent",
        "the flux is inverted",
    ]


@pytest.mark.parametrize("damaged", ["plan.json", "processes.json", "events.jsonl"])
def test_a_damaged_run_is_diagnosed_from_what_is_left(run: RunFolder, damaged: str) -> None:
    (run.path / damaged).write_text("{half")
    result = _doctor(run.id, "--json")
    assert json.loads(result.stdout)[0]["rule"] == "cuda-oom-load"


def test_a_bundle_of_a_run_holds_no_planted_secret(run: RunFolder, tmp_path: Path) -> None:
    before = _content(run.path)
    out = tmp_path / "out.tar.gz"
    _doctor(run.id, "--bundle", str(out))
    with tarfile.open(out) as packed:
        texts = {one.name: (packed.extractfile(one) or pytest.fail()).read().decode() for one in packed}
    everything = "\n".join(texts.values())
    assert [secret for secret in PLANTED if secret in everything] == []
    files = ("doctor.json", "plan.json", "processes.json", "events.jsonl", "logs/rank0.log", "logs/rank1.log")
    assert {f"{run.id}/{name}" for name in files} <= set(texts)
    assert json.loads(texts[f"{run.id}/doctor.json"])[0]["rule"] == "cuda-oom-load"
    kept = ("EngineDeadError", "--port", "NCCL_DEBUG", "mirror.example/v2/", "revision=main")
    assert [word for word in kept if word not in everything] == []
    assert _content(run.path) == before
