"""What is a secret is told by the form of its name, and its value prints as `***`."""

import json
from pathlib import Path

import pytest

from overspan.launchers.docker_commands import docker_run
from overspan.runs import planning
from overspan.schema import secrets
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, RecipeError
from overspan.schema.secrets import Secret
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder
from support.runs import a_plan

_SECRETS = """
HF_TOKEN HUGGING_FACE_HUB_TOKEN OVERSPAN_API_KEY VLLM_API_KEY NGC_API_KEY AWS_SECRET_ACCESS_KEY WANDB_API_KEY
RAY_AUTH_TOKEN AWS_SESSION_TOKEN RAY_REDIS_PASSWORD MYSQL_PWD DB_PASSWD REGISTRY_AUTH
GOOGLE_APPLICATION_CREDENTIALS CLIENT_SECRET SSH_PASSPHRASE hf_token apiKey --api-key DEPLOY_KEY_2
"""
_OTHERS = """
TOKENIZERS_PARALLELISM MAX_TOKENS VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD
VLLM_USE_FASTOKENS HF_TOKEN_PATH HF_HUB_DISABLE_IMPLICIT_TOKEN RAY_AUTH_MODE SSH_AUTH_SOCK NCCL_IB_PKEY PWD
OLDPWD PATH eos_token first_token SSH_PUBLIC_KEY key monkey --host-key-file
"""


@pytest.mark.parametrize("name", _SECRETS.split())
def test_a_name_of_this_form_holds_a_secret(name: str) -> None:
    assert secrets.is_secret(name)
    with pytest.raises(RecipeError, match="is a secret") as caught:
        secrets.refuse_env([name], where="mine.yaml: env")
    assert name in caught.value.what and "secrets" in (caught.value.next or "")


@pytest.mark.parametrize("name", _OTHERS.split())
def test_a_name_of_another_form_holds_none(name: str) -> None:
    assert not secrets.is_secret(name)
    secrets.refuse_env([name], where="mine.yaml: env")


def test_a_secret_prints_as_stars_wherever_it_is_shown() -> None:
    class Holder(Frozen):
        key: Secret

    holder = Holder(key=Secret("hunter2"))
    shown = [repr(holder), str(holder.key), f"{holder.key}", holder.model_dump_json(), json.dumps(str(holder.key))]
    assert all("***" in text and "hunter2" not in text for text in shown)
    assert holder.key.get_secret_value() == "hunter2"


def test_what_a_server_quotes_of_a_secret_is_taken_out() -> None:
    key = Secret("k3y-of-the-run")
    assert key.taken_out("bad key k3y-of-the-run!") == "bad key ***!"
    assert key.taken_out("cut within: k3y-of-t", "[removed]") == "cut within: [removed]"
    assert Secret("").taken_out("text") == "text"


def test_the_values_of_an_environment_are_found_by_name() -> None:
    found = secrets.values({"WANDB_API_KEY": "w4ndb", "HF_TOKEN": "", "MAX_TOKENS": "8"})
    assert list(found) == ["WANDB_API_KEY"]
    assert found["WANDB_API_KEY"].get_secret_value() == "w4ndb"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN"])
def test_a_recipes_secret_goes_from_the_environment_to_a_file_of_its_owner_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    monkeypatch.setenv(name, "s3cret-of-the-user")
    plan = a_plan(8000, secrets=[name])
    folder = RunFolder.create("secretive")
    processes = planning.processes_of(plan)
    run_secrets.require(plan.recipe.secrets)
    folder.write("plan.json", plan)
    folder.write("processes.json", processes)
    run_secrets.make(folder, plan, run_secrets.API_KEY, [])
    assert [spec.secrets for spec in processes] == [[name]]
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert holders == [folder.path / "secrets.json"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    contained = processes[0].with_(image="vllm/vllm-openai")
    argv = docker_run(contained, folder.id, secrets_folder="/dev/shm/x", image_entrypoint=["serve"])
    assert "s3cret" not in " ".join(argv) and name not in " ".join(argv)


def test_a_recipes_secret_that_is_not_set_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(InputError, match="not all set here: WANDB_API_KEY") as caught:
        run_secrets.require(["WANDB_API_KEY"])
    assert caught.value.next == "export WANDB_API_KEY=..."
