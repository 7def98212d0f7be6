"""Every command of the docker launcher, whole."""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path

import pytest

from overspan.launchers import docker_commands as commands
from overspan.schema.errors import InputError
from overspan.schema.process import Mount, ProcessSpec
from overspan.schema.secrets import Secret

SPEC = ProcessSpec(
    name="rank0",
    host="spark1",
    image="vllm/vllm-openai:v0.32.0",
    entrypoint="vllm",
    argv=["serve", "/models/m2", "--tensor-parallel-size", "2"],
    env={"NCCL_SOCKET_IFNAME": "enp1s0f1np1"},
    mounts=[Mount(source="/data/models", target="/models"), Mount(source="/cache", target="/cache", read_only=False)],
    docker_options=["--gpus", "all", "--shm-size", "16g"],
    cwd="/tmp",
    ranks=[0],
)
STARTS = [
    *("docker", "run", "--detach", "--init", "--pull", "never", "--network", "host"),
    *("--name", "overspan-m2-20261122-1-ab12-rank0"),
    *("--label", "overspan.run=m2-20261122-1-ab12", "--label", "overspan.process=rank0", "--label", "overspan.ranks=0"),
    *("--env", "NCCL_SOCKET_IFNAME=enp1s0f1np1"),
    *("--mount", "type=bind,source=/data/models,target=/models,readonly"),
    *("--mount", "type=bind,source=/cache,target=/cache"),
]
OPTIONS = ["--workdir", "/tmp", "--gpus", "all", "--shm-size", "16g"]
RUN = "m2-20261122-1-ab12"


def test_docker_run() -> None:
    assert commands.docker_run(SPEC, RUN) == [
        *STARTS,
        *OPTIONS,
        *("--entrypoint", "vllm", "--", "vllm/vllm-openai:v0.32.0"),
        *("serve", "/models/m2", "--tensor-parallel-size", "2"),
    ]


def test_docker_run_with_secrets_names_none_of_them() -> None:
    spec = SPEC.with_(secrets=["HF_TOKEN"], entrypoint=None)
    argv = commands.docker_run(
        spec, RUN, secrets_folder="/dev/shm/overspan.x1", image_entrypoint=["python3", "-m", "vllm"]
    )
    assert argv == [
        *STARTS,
        *("--mount", "type=bind,source=/dev/shm/overspan.x1/env,target=/run/secrets/overspan,readonly"),
        *OPTIONS,
        *("--entrypoint", "/bin/sh", "--", "vllm/vllm-openai:v0.32.0"),
        *("-c", 'set -a; . "$0"; set +a; exec "$@"', "/run/secrets/overspan"),
        *("python3", "-m", "vllm", "serve", "/models/m2", "--tensor-parallel-size", "2"),
    ]


@pytest.mark.parametrize("image", [None, "", "--privileged"])
def test_docker_run_refuses_what_is_no_image(image: str | None) -> None:
    with pytest.raises(InputError, match="rank0 names no image"):
        commands.docker_run(SPEC.with_(image=image), RUN)


@pytest.mark.parametrize("path", ["/a,readonly", '/with "quotes"', "/plain", "/a\nb"])
def test_mount_option_keeps_the_path_one_field(path: str) -> None:
    option = commands.mount_option(Mount(source=path, target=path))
    assert next(csv.reader(io.StringIO(option, newline=""), strict=True)) == [
        "type=bind",
        f"source={path}",
        f"target={path}",
        "readonly",
    ]


def test_secrets_go_to_a_private_file_and_come_back_as_they_were(tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_'; touch /tmp/x #", "KEY": 'two\nlines "$HOME" `id` \\'}
    given = commands.secrets_text({name: Secret(value) for name, value in secrets.items()})
    received = subprocess.run(commands.receive_secrets(), input=given, capture_output=True, check=True)
    folder = Path(received.stdout.decode())
    try:
        assert (folder / "env").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        show = ["sh", "-c", 'printf "%s|%s" "$HF_TOKEN" "$KEY"']
        script = commands.docker_run(SPEC, RUN, secrets_folder=str(folder))[-7]
        shown = subprocess.run(
            ["/bin/sh", "-c", script, str(folder / "env"), *show], capture_output=True, check=True
        ).stdout.decode()
    finally:
        subprocess.run(commands.forget_secrets(str(folder)), check=True)
    assert shown == f"{secrets['HF_TOKEN']}|{secrets['KEY']}"
    assert not folder.exists()


def test_the_other_commands() -> None:
    assert commands.list_containers("r1") == [
        *("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=overspan.run=r1")
    ]
    assert commands.logs("c1", since="2026-11-22T16:00:00.5Z") == [
        *("sh", "-c", 'exec "$@" 2>&1', "sh"),
        *("docker", "logs", "--follow", "--timestamps", "--since", "2026-11-22T16:00:00.5Z", "--", "c1"),
    ]
    assert commands.stop(["c1", "c2"], 20.0) == ["docker", "stop", "--time", "20", "--", "c1", "c2"]
    assert commands.remove(["c1"]) == ["docker", "rm", "--force", "--volumes", "--", "c1"]
    assert commands.top("c1") == ["docker", "top", "c1", "-ww", "-eo", "pid,ppid,rss,stat,args"]
