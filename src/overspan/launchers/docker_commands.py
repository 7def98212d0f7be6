"""The commands that the docker launcher runs, as values. Nothing here is ever joined into text for a shell.

Secrets. `docker inspect` shows a container's environment to whoever may talk to the engine, and the engine keeps it on
disk as long as the container is there. So a secret is no environment variable of the container: it lies in a file of
mode 0600 in the host's memory (/dev/shm), which the container sees read-only; a shell inside reads it, and becomes the
process. The file's name goes away as soon as the container runs.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from overspan.schema.errors import InputError
from overspan.schema.process import Mount, ProcessSpec
from overspan.schema.secrets import Secret

RUN_LABEL: Final = "overspan.run"
PROCESS_LABEL: Final = "overspan.process"
RANKS_LABEL: Final = "overspan.ranks"

SECRETS_TARGET: Final = "/run/secrets/overspan"
"""Where a container sees its secrets. Source: Docker's own place for them, /run/secrets."""

_WITH_SECRETS: Final = 'set -a; . "$0"; set +a; exec "$@"'
_RECEIVE: Final = 'umask 077; d=$(mktemp -d /dev/shm/overspan.XXXXXXXX) && cat >"$d/env" && printf %s "$d"'
_ONE_STREAM: Final = ("sh", "-c", 'exec "$@" 2>&1', "sh")
"""Two streams over one connection may overtake each other; merged on the host they cannot."""

_INSPECT: Final = '{"id":{{json .Id}},"name":{{json .Name}},"labels":{{json .Config.Labels}},"state":{{json .State}}}'


def container_name(run: str, process: str) -> str:
    """The container of a run's process."""
    return f"overspan-{run}-{process}"


def docker_run(
    spec: ProcessSpec,
    run: str,
    *,
    secrets_folder: str | None = None,
    image_entrypoint: Sequence[str] = (),
    detach: bool = True,
) -> list[str]:
    """`docker run` of one process, in the background unless `detach` is off, on the host's own network.

    The image is never pulled here: staging put it there. `docker_options` of the process come last, so that they win.

    Args:
        spec: what to run; it must name an image.
        run: the run's id, for the labels that any shell finds the container by.
        secrets_folder: what `receive_secrets` printed, where the process has secrets.
        image_entrypoint: the image's own entrypoint; needed where there are secrets and the process names none.

    Raises:
        InputError: the process has no image, or one that would be read as an option.
    """
    if not spec.image or spec.image.startswith("-"):
        raise InputError(f"process {spec.name} names no image: {spec.image!r}", next="set image in the recipe")
    command = ["docker", "run", "--detach" if detach else "--rm", "--init", "--pull", "never", "--network", "host"]
    command += ["--name", container_name(run, spec.name)]
    ranks = ",".join(str(rank) for rank in spec.ranks)
    for label, value in ((RUN_LABEL, run), (PROCESS_LABEL, spec.name), (RANKS_LABEL, ranks)):
        command += ["--label", f"{label}={value}"]
    for name, value in spec.env.items():
        command += ["--env", f"{name}={value}"]
    mounts = list(spec.mounts)
    if secrets_folder is not None:
        mounts.append(Mount(source=f"{secrets_folder}/env", target=SECRETS_TARGET))
    for mount in mounts:
        command += ["--mount", mount_option(mount)]
    if spec.cwd is not None:
        command += ["--workdir", spec.cwd]
    command += spec.docker_options
    if secrets_folder is None:
        entrypoint = [] if spec.entrypoint is None else ["--entrypoint", spec.entrypoint]
        return [*command, *entrypoint, "--", spec.image, *spec.argv]
    process = [*(image_entrypoint if spec.entrypoint is None else [spec.entrypoint]), *spec.argv]
    return [*command, "--entrypoint", "/bin/sh", "--", spec.image, "-c", _WITH_SECRETS, SECRETS_TARGET, *process]


def mount_option(mount: Mount) -> str:
    """A value of `--mount`. Docker reads it as one line of CSV, so a comma or quote in a path needs quotes."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if mount.read_only:
        fields.append("readonly")
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue().removesuffix("\n")


def receive_secrets() -> list[str]:
    """Keeps standard input in a file `env` of mode 0600, in a new folder of memory that only its user can enter.

    Prints the folder.
    """
    return ["sh", "-c", _RECEIVE]


def secrets_text(secrets: Mapping[str, Secret]) -> bytes:
    """What `receive_secrets` is given: assignments that a shell reads, each value quoted."""
    lines = (f"{name}={shlex.quote(value.get_secret_value())}\n" for name, value in secrets.items())
    return "".join(lines).encode()


def forget_secrets(folder: str) -> list[str]:
    """Removes what `receive_secrets` made. A running container keeps the file that it has open in its mount."""
    return ["rm", "-rf", "--", folder]


def list_containers(run: str) -> list[str]:
    """Prints the id of every container of a run, ended ones too."""
    return ["docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={RUN_LABEL}={run}"]


def inspect(containers: Sequence[str]) -> list[str]:
    """Prints one JSON object a container and line; ends with 1 when one of them does not exist."""
    return ["docker", "container", "inspect", "--format", _INSPECT, "--", *containers]


def top(container: str) -> list[str]:
    """Prints each process of a container: its and its parent's id (the host's), resident KiB, state, whole command
    line."""
    return ["docker", "top", container, "-ww", "-eo", "pid,ppid,rss,stat,args"]


def logs(container: str, *, since: str | None = None) -> list[str]:
    """Follows a container's output, both streams in their order, a timestamp before each line, from `since` on."""
    from_then = ["--since", since] if since else []
    return [*_ONE_STREAM, "docker", "logs", "--follow", "--timestamps", *from_then, "--", container]


def last_logs(container: str, lines: int) -> list[str]:
    """Prints the last lines of a container's output, both streams in their order."""
    return [*_ONE_STREAM, "docker", "logs", "--tail", str(lines), "--", container]


def stop(containers: Sequence[str], grace_s: float) -> list[str]:
    """SIGTERM to each container at once, SIGKILL to what is left after `grace_s`, whole seconds."""
    return ["docker", "stop", "--time", str(max(0, round(grace_s))), "--", *containers]


def remove(containers: Sequence[str]) -> list[str]:
    """Removes containers, running or not, and their anonymous volumes."""
    return ["docker", "rm", "--force", "--volumes", "--", *containers]
