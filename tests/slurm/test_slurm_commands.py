"""Every command of the slurm launcher, whole; and the constant scripts, run by a real shell."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from overspan.launchers import slurm_commands as commands
from overspan.launchers.registry import launcher_of
from overspan.launchers.slurm_state import SlurmJob, nodes_of
from overspan.planner.make import make_plan
from overspan.runs.planning import processes_of
from overspan.schema.errors import InputError
from overspan.schema.inventory import ContainerRuntime, Gpu, Host, Inventory, Slurm
from overspan.schema.plan import EngineChoice
from overspan.schema.process import Mount, ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.secrets import Secret

RUN = "m3-20261122-1-ab12"
SITE = Slurm(
    partition="gb200",
    account="team",
    reservation="night",
    time_limit="04:00:00",
    segment=2,
    directives=["--qos=high"],
)
SPEC = ProcessSpec(
    name="decode0",
    host="a",
    argv=["vllm", "serve", "/models/m3", "--host", "{address:a}"],
    env={"UCX_TLS": "cuda_copy,cuda_ipc,tcp"},
    ranks=[0, 1],
)
GPUS = [Gpu(index=index, kind="gb200", memory_bytes=1) for index in range(4)]
HOSTS = [Host(name=name, memory_bytes=1, cores=72, gpus=GPUS) for name in ("a", "b")]
SRUN = [
    *("srun", "--overlap", "--job-name=decode0", "--nodes=1", "--ntasks=1", "--nodelist={node:a}", "--export=ALL"),
    *("--cpu-bind=none", "--mem=0", "--kill-on-bad-exit=0", "--mpi=none"),
]


def test_sbatch_whole() -> None:
    assert commands.sbatch(SITE, RUN, "/shared/runs/x", HOSTS) == [
        *("sbatch", "--parsable", f"--job-name=overspan-{RUN}", "--nodes=2", "--ntasks-per-node=1"),
        *("--partition=gb200", "--account=team", "--reservation=night", "--time=04:00:00", "--segment=2"),
        *("--exclusive", "--mem=0", "--gpus-per-node=4", "--no-requeue"),
        *("--export=HOME,USER,LOGNAME,SHELL,PATH,LANG", "--chdir=/shared/runs/x"),
        *("--output=/shared/runs/x/logs/job.log", "--qos=high", "/shared/runs/x/batch.sh", "/shared/runs/x"),
    ]


def test_sbatch_of_a_shared_node_without_gres_and_of_named_nodes() -> None:
    site = Slurm(nodes="named", exclusive=False, gres=False)
    argv = commands.sbatch(site, RUN, "/s", [HOSTS[0].with_(name="n1"), HOSTS[1].with_(name="n2")])
    assert "--nodelist=n1,n2" in argv
    assert "--cpus-per-task=72" in argv
    assert not [word for word in argv if word.startswith(("--exclusive", "--gpus", "--mem", "--partition"))]


@pytest.mark.parametrize("option", ["rm -rf /", "-p x", "--", "--qos=a\nb", "--qos a"])
def test_a_directive_is_a_long_option(option: str) -> None:
    with pytest.raises(ValueError, match="not a long option of sbatch"):
        Slurm(directives=[option])


@pytest.mark.parametrize(
    "option", ["--wrap=touch /tmp/x", "--arr=1-9", "--nodes=99", "--export=ALL", "--outp=/x", "--requeue"]
)
def test_a_directive_leaves_a_runs_own_options_alone(option: str) -> None:
    with pytest.raises(ValueError, match="Overspan sets it for each run"):
        Slurm(directives=[option])


def test_what_sites_add_is_taken() -> None:
    site = [
        "--qos=high",
        "--comment=a b; rm -rf /",
        "--gpus-per-node=2",
        "--exclude=n1",
        "--wait-all-nodes=1",
        "--mem=0",
    ]
    assert commands.sbatch(Slurm(directives=site), RUN, "/s", HOSTS)[-8:-2] == site


@pytest.mark.parametrize(
    "field",
    [
        *({"partition": "gpu --wrap=x"}, {"account": "-x"}, {"reservation": ""}, {"time_limit": "yesterday"}),
        *({"time_limit": "1:2:3:4"}, {"folder": "relative"}, {"folder": "/lustre/%j"}, {"segment": 0}),
    ],
)
def test_what_is_no_site_setting(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Slurm.model_validate(field)


@pytest.mark.parametrize("limit", ["90", "4:00:00", "2-0", "1-12:30:00", "UNLIMITED"])
def test_time_limits_are_those_of_sbatch(limit: str) -> None:
    assert f"--time={limit}" in commands.sbatch(Slurm(time_limit=limit), RUN, "/s", HOSTS)


def test_step_without_a_container() -> None:
    assert commands.step(SPEC, RUN, None) == [
        *SRUN,
        *("--", "sh", "-c", "{step.sh}", "sh", "env", "--", "UCX_TLS=cuda_copy,cuda_ipc,tcp"),
        *("vllm", "serve", "/models/m3", "--host", "{address:a}"),
    ]


def test_step_in_pyxis() -> None:
    spec = SPEC.with_(
        image="/shared/images/vllm.sqsh",
        entrypoint="vllm",
        argv=["serve", "/models/m3"],
        mounts=[
            Mount(source="/lustre/m3", target="/models/m3"),
            Mount(source="/c", target="/c", read_only=False),
        ],
        secrets=["HF_TOKEN"],
        cwd="/tmp",
    )
    assert commands.step(spec, RUN, ContainerRuntime(kind="enroot")) == [
        *SRUN,
        *("--container-image=/shared/images/vllm.sqsh", "--no-container-mount-home"),
        *("--container-mounts=/lustre/m3:/models/m3:ro,/c:/c", "--container-workdir=/tmp"),
        *("--", "sh", "-c", "{step.sh}", "secrets"),
        *("env", "--", "UCX_TLS=cuda_copy,cuda_ipc,tcp", "vllm", "serve", "/models/m3"),
    ]
    comma = spec.with_(mounts=[Mount(source="/a,b", target="/c")])
    with pytest.raises(InputError, match="pyxis cannot mount"):
        commands.step(comma, RUN, ContainerRuntime(kind="enroot"))


def test_step_in_docker_ends_its_container_and_shows_no_secret() -> None:
    spec = SPEC.with_(image="vllm/vllm-openai:v0.32.0", entrypoint="vllm", argv=["serve", "/m"])
    argv = commands.step(spec, RUN, ContainerRuntime())
    assert argv[len(SRUN) : len(SRUN) + 3] == ["--", "sh", "-c"]
    assert "docker stop" in argv[len(SRUN) + 3]
    assert argv[len(SRUN) + 4 : len(SRUN) + 9] == ["sh", f"overspan-{RUN}-decode0", "docker", "run", "--rm"]
    with pytest.raises(InputError, match="HF_TOKEN"):
        commands.step(spec.with_(secrets=["HF_TOKEN"]), RUN, ContainerRuntime())


def test_the_runs_folder_holds_no_shell_text_and_secrets_apart() -> None:
    spec = SPEC.with_(secrets=["HF_TOKEN"], argv=["x", "a'; rm -rf / #", "$(b)"])
    packed = commands.files([spec], RUN, HOSTS[:1], secrets={"HF_TOKEN": Secret("hf_se'cret")})
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = {entry.name: (entry.mode, tar.extractfile(entry)) for entry in tar.getmembers()}
        text = {name: handle.read() for name, (_, handle) in found.items() if handle}
    assert text["batch.sh"].decode() == commands.batch_script()
    assert text["steps/decode0"].split(b"\0")[-4:] == [b"x", b"a'; rm -rf / #", b"$(b)", b""]
    assert [name for name, data in text.items() if b"hf_se" in data] == ["secrets/decode0"]
    assert found["secrets/decode0"][0] == 0o600


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("TIMEOUT", "reached its time limit of 4:00:00: Slurm's state TIMEOUT, reason TimeLimit"),
        ("NODE_FAIL", "ended: a node failed: Slurm's state NODE_FAIL, reason TimeLimit"),
        ("PREEMPTED", "was preempted by a job of higher priority: Slurm's state PREEMPTED, reason TimeLimit"),
        ("FAILED", None),
        ("COMPLETED", None),
    ],
)
def test_causes(state: str, said: str | None) -> None:
    job = SlurmJob(id="7", state=state, reason="TimeLimit", time_limit="4:00:00")
    assert job.cause == said
    assert job.over


def test_nodes_of_a_half_written_line_are_not_taken() -> None:
    assert list(nodes_of("a|n1|10.0.0.1\nb|n2")) == ["a"]


def test_weights_are_copied_once_and_again_after_a_killed_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "local" / "m3"
    (source / "sub").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "sub" / "w").write_bytes(b"12345")
    argv = commands.stage("a", commands.Copy(str(source), str(target)))
    argv = argv[argv.index("--") + 1 :]
    (tmp_path / "local" / "m3.partial.7").mkdir(parents=True)
    target.mkdir()
    (target / "config.json").write_text("{}")
    many = [subprocess.Popen(argv) for _ in range(4)]
    assert [one.wait() for one in many] == [0] * 4
    assert (target / "sub" / "w").read_bytes() == b"12345"
    assert sorted(path.name for path in target.parent.iterdir()) == ["m3", "m3.lock"]
    inode = (target / "config.json").stat().st_ino
    subprocess.run(argv, check=True)
    assert (target / "config.json").stat().st_ino == inode


def test_what_is_printed_is_what_staging_will_make_of_the_plan() -> None:
    """The model by its alias and from each node's own disk, the image as it is imported, the home folder by name."""
    hosts = [
        Host(name=name, memory_bytes=10**12, container=ContainerRuntime(kind="enroot"), cores=8) for name in ("a", "b")
    ]
    site = Slurm(local_models="/nvme", images="/shared/images")
    machines = Inventory(hosts=hosts, launcher="slurm", slurm=site, models={"tiny/none": "/lustre/tiny"})
    engine = EngineChoice(name="vllm", version="0.32.0", image="nvcr.io/vllm:1")
    recipe = Recipe.model_validate({"name": "tiny", "model": "tiny/none", "layout": "pp2", "host": "0.0.0.0"})
    plan = launcher_of(make_plan(recipe, machines, engine)).as_staged()
    text = launcher_of(plan).commands(processes_of(plan))
    assert text.count("sh /lustre/tiny /nvme/tiny") == 2  # the copy on each node
    assert text.count("vllm serve /nvme/tiny") == 2
    assert text.count("--container-image=/shared/images/nvcr.io_2f_vllm_3a_1.sqsh") == 2
    assert text.count("/nvme/tiny:/nvme/tiny") == 2
    assert '"--chdir=$HOME/overspan/runs/by-hand"' in text
