"""The commands of the slurm launcher, as values. No text of a plan is ever read by a shell as text.

One allocation a run, one step a process. The batch script is the constant `batch.sh`: it reads each step's argument
list from a file of its own (arguments end with a NUL byte), puts the real nodes in the place of the plan's hosts, and
starts all steps. So the job owns itself: it goes on when whoever submitted it is gone, and Slurm ends all of it.

Secrets reach a step through its standard input, from a file of mode 0600 that the batch script removes at once.
"""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overspan.launchers.base import as_text
from overspan.launchers.docker_commands import container_name, docker_run, secrets_text
from overspan.schema.errors import InputError
from overspan.schema.inventory import ContainerRuntime, Host, Slurm
from overspan.schema.plan import Plan
from overspan.schema.process import Mount, ProcessSpec
from overspan.schema.secrets import Secret

EXPORTED: Final = "HOME,USER,LOGNAME,SHELL,PATH,LANG"
"""What a job keeps of the submitting shell's environment; everything else stands in the plan."""

_GUARD: Final = "{step.sh}"
"""What stands for the text of step.sh among a step's words until the batch script puts it there."""

_CONTAINER: Final = """\
name=$1; shift
end() { docker stop --time 20 -- "$name" >/dev/null; }
trap end TERM INT
"$@" 2>&1 </dev/null & child=$!
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
exit $code"""
"""Docker's engine owns the container, not the step: so the step ends the container when Slurm ends the step."""


def batch_script() -> str:
    """The job's script, the same for every run."""
    return Path(__file__).with_name("batch.sh").read_text(encoding="utf-8")


def step_script() -> str:
    """What each step outside docker runs its process with."""
    return Path(__file__).with_name("step.sh").read_text(encoding="utf-8")


def job_name(run: str) -> str:
    """The name by which any shell finds a run's job."""
    return f"overspan-{run}"


def node_of(host: str) -> str:
    """What stands for a host's node until Slurm has chosen one."""
    return f"{{node:{host}}}"


def sbatch(slurm: Slurm, run: str, folder: str, hosts: Sequence[Host]) -> list[str]:
    """Submit the job; prints its id. GPUs are asked for as the fullest host has them, cores on shared nodes alone.

    Args:
        slurm: the site's settings; its own directives come last and win.
        run: the run's id.
        folder: the run's folder on shared storage, where the script is.
        hosts: the plan's hosts that hold processes, in order.
    """
    command = ["sbatch", "--parsable", f"--job-name={job_name(run)}", f"--nodes={len(hosts)}", "--ntasks-per-node=1"]
    if slurm.nodes == "named":
        command.append(f"--nodelist={','.join(host.name for host in hosts)}")
    named = {
        "partition": slurm.partition,
        "account": slurm.account,
        "reservation": slurm.reservation,
        "time": slurm.time_limit,
        "segment": slurm.segment,
    }
    command += [f"--{option}={value}" for option, value in named.items() if value is not None]
    cores, gpus = max(host.cores for host in hosts), max(len(host.gpus) for host in hosts)
    command += ["--exclusive", "--mem=0"] if slurm.exclusive else [f"--cpus-per-task={cores}"]
    command += [f"--gpus-per-node={gpus}"] if slurm.gres and gpus else []
    # A job that starts again by itself would be another run than the one that is watched.
    command += ["--no-requeue", f"--export={EXPORTED}", f"--chdir={folder}", f"--output={folder}/logs/job.log"]
    return [*command, *slurm.directives, f"{folder}/batch.sh", folder]


def step(spec: ProcessSpec, run: str, container: ContainerRuntime | None) -> list[str]:
    """One process as a step on its node, beside the others.

    Raises:
        InputError: the process cannot be started that way; says why.
    """
    # The launcher of ranks is the engine: a task has the whole node, and its exit is the process's own.
    srun = [*_srun(spec.name, spec.host), "--cpu-bind=none", "--mem=0", "--kill-on-bad-exit=0", "--mpi=none"]
    pyxis = spec.image is not None and container is not None and container.kind == "enroot"
    if spec.image is None or pyxis:
        where = _pyxis(spec) if pyxis else [f"--chdir={spec.cwd}"] if spec.cwd else []
        wrapper = ["sh", "-c", _GUARD, "secrets" if spec.secrets else "sh"]
        environment = ["env", "--", *(f"{name}={value}" for name, value in spec.env.items())]
        return [*srun, *where, "--", *wrapper, *environment, *spec.words]
    if spec.secrets:
        raise InputError(
            f"process {spec.name} has secrets ({', '.join(spec.secrets)}), which docker in a step would show to others",
            next="use pyxis (container.kind: enroot in the inventory), no container, or no api_key",
        )
    name = container_name(run, spec.name)
    return [*srun, "--", "sh", "-c", _CONTAINER, "sh", name, *docker_run(spec, run, detach=False)]


def _srun(name: str, host: str) -> list[str]:
    node = [f"--job-name={name}", "--nodes=1", "--ntasks=1", f"--nodelist={node_of(host)}"]
    return ["srun", "--overlap", *node, "--export=ALL"]


def _pyxis(spec: ProcessSpec) -> list[str]:
    """Options of NVIDIA's pyxis. Source: its README, `srun --help` section."""
    options = [f"--container-image={spec.image}", "--no-container-mount-home"]
    if spec.mounts:
        options.append(f"--container-mounts={','.join(_mount(mount, spec.name) for mount in spec.mounts)}")
    return [*options, *([f"--container-workdir={spec.cwd}"] if spec.cwd else [])]


def _mount(mount: Mount, process: str) -> str:
    for path in (mount.source, mount.target):
        if "," in path or ":" in path:
            raise InputError(
                f"process {process}: pyxis cannot mount {path!r}", next="use a path without comma and colon"
            )
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")


_COPY: Final = """\
set -e
list() { (cd "$1" && find -L . -type f -printf '%P %s\\n' | sort); }
mkdir -p -- "$(dirname -- "$2")"
exec 9>"$2.lock"; flock 9
wanted=$(list "$1")
[ ! -d "$2" ] || [ "$(list "$2")" != "$wanted" ] || exit 0
rm -rf -- "$2" "$2".partial.*
cp -rL -- "$1" "$2.partial.$$"
if [ "$(list "$2.partial.$$")" != "$wanted" ]; then echo "$2 is not whole after the copy" >&2; exit 1; fi
mv -- "$2.partial.$$" "$2"
"""
"""Copies a folder once, whichever of many asks first; what a killed copy left is removed by the next."""


@dataclass(frozen=True)
class Copy:
    """Weights that go to each node's own disk before the start."""

    source: str
    target: str


def copy_of(plan: Plan) -> Copy | None:
    """What a plan's weights need, whose place is on the nodes' own disks."""
    return Copy(plan.model_source, plan.model_path) if plan.model_source and plan.model_path else None


def stage(host: str, copy: Copy) -> list[str]:
    """The step that copies the weights on one node."""
    return [*_srun(f"stage-{host}", host), "--mpi=none", "--", "sh", "-c", _COPY, "sh", copy.source, copy.target]


def files(
    specs: Sequence[ProcessSpec],
    run: str,
    hosts: Sequence[Host],
    *,
    secrets: Mapping[str, Secret],
    copy: Copy | None = None,
) -> bytes:
    """The run's folder on shared storage, as a tar: the script, the hosts, and each step's arguments and secrets."""
    content: dict[str, tuple[bytes, int]] = {
        "batch.sh": (batch_script().encode(), 0o700),
        "step.sh": (step_script().encode(), 0o600),
        "hosts": ("".join(f"{host.name}\n" for host in hosts).encode(), 0o600),
    }
    containers = {host.name: host.container for host in hosts}
    for spec in specs:
        argv = step(spec, run, containers.get(spec.host))
        content[f"steps/{spec.name}"] = (_words(argv), 0o600)
        if spec.secrets:
            content[f"secrets/{spec.name}"] = (secrets_text({name: secrets[name] for name in spec.secrets}), 0o600)
        content[f"logs/{spec.name}.log"] = (b"", 0o600)
    if copy is not None:
        content |= {f"stage/stage-{host.name}": (_words(stage(host.name, copy)), 0o600) for host in hosts}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (data, mode) in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def _words(argv: Sequence[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in argv)


# by hand -------------------------------------------------------------------------------------------------------------

HOME_FOLDER: Final = "$HOME/overspan"
_IN_DOUBLE_QUOTES: Final = re.compile(r"[A-Za-z0-9_=/.$-]+")


def as_texts(slurm: Slurm, run: str, hosts: Sequence[Host], specs: Sequence[ProcessSpec], copy: Copy | None) -> str:
    """The whole job as text for a shell: the submission, the batch script, and each step that it starts."""
    folder = f"{slurm.folder or HOME_FOLDER}/runs/{run}"
    containers = {host.name: host.container for host in hosts}
    copies = [f"# weights to the disk of {host.name}\n{_text(stage(host.name, copy))}" for host in hosts if copy]
    return "\n\n".join(
        [
            f"# the allocation\n{_text(sbatch(slurm, run, folder, hosts))}",
            f"# {folder}/batch.sh\n{batch_script().rstrip()}",
            f"# {folder}/step.sh\n{step_script().rstrip()}",
            *copies,
            *(as_text(spec, _text(step(spec, run, containers.get(spec.host)))) for spec in specs),
        ]
    )


def _text(argv: Sequence[str]) -> str:
    """As `shlex.join`, but for the home folder, which the shell is to fill in."""
    return " ".join(f'"{word}"' if _is_home(word) else shlex.quote(word) for word in argv)


def _is_home(word: str) -> bool:
    here = word.find(HOME_FOLDER)
    return here >= 0 and word.count("$") == 1 and _IN_DOUBLE_QUOTES.fullmatch(word) is not None
