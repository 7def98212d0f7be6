"""What the slurm launcher makes of what Slurm says, on a scripted login node (test_up_on_slurm.py has a real one)."""

import base64
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from overspan.launchers import slurm
from overspan.launchers.slurm import SlurmLauncher
from overspan.launchers.slurm_state import find_steps
from overspan.schema.errors import InputError
from overspan.schema.inventory import Host, Slurm
from overspan.schema.process import ProcessSpec
from overspan.transport.fake import Fake, Reply
from overspan.transport.local import Local
from support.plans import plan_on, run_in

SPECS = [
    ProcessSpec(name="api", host="a", argv=["serve"], ranks=[0]),
    ProcessSpec(name="worker1", host="b", argv=["serve"], ranks=[1]),
]
HOSTS = [Host(name=name, memory_bytes=1, cores=4) for name in ("a", "b")]
NODES = "a|n1|10.0.0.1\nb|n2|10.0.0.2\n"


def job(state: str, reason: str = "None", nodes: str = "n[1-2]") -> Reply:
    return Reply(argv=["squeue", "--noheader", "--states=all", "**"], stdout=f"7|{state}|{reason}|{nodes}|1:00:00\n")


def reading(*texts: str) -> Reply:
    lines = "".join(base64.b64encode(text.encode()).decode() + "\n" for text in texts)
    return Reply(argv=["sh", "-c", "for each*", "**"], stdout=lines)


NOTHING = reading("", "", "", "")


def slurm_launcher(folder: Path, login: Fake) -> SlurmLauncher:
    plan = plan_on(HOSTS, launcher="slurm", slurm=Slurm(folder="/shared"))
    return SlurmLauncher(plan, run_in(folder, "m3-1"), {"login": login})


def launcher(tmp_path: Path, replies: Sequence[Reply]) -> tuple[SlurmLauncher, Fake]:
    script = [
        Reply(argv=["sh", "-c", "umask*", "**"]),
        Reply(argv=["sbatch", "**"], stdout="7;cluster\n"),
        *replies,
        Reply(argv=["scancel", "**"]),
        Reply(argv=["touch", "**"]),
        Reply(argv=["rm", "**"]),
    ]
    login = Fake("login", script)
    made = slurm_launcher(tmp_path, login)
    made.start_all(SPECS, {})
    return made, login


def test_the_queue_is_told_with_its_reason_and_then_the_nodes_are_known(tmp_path: Path) -> None:
    replies = [job("PENDING", "Resources", ""), job("RUNNING"), reading(NODES)]
    made, login = launcher(tmp_path, replies)
    assert made.waiting() == "job 7 is queued"
    assert made.wait(0) == []
    assert made.waiting() == "job 7 is queued: Resources"
    assert made.wait(1.2) == []
    assert made.waiting() is None
    assert (made.address_of("a"), made.address_of("b")) == ("10.0.0.1", "10.0.0.2")
    packed = next(call for call in login.calls if call.argv[0] == "sh")
    assert b"steps/worker1" in (packed.stdin or b"")


def test_cancelled_in_the_queue_quotes_the_controller(tmp_path: Path) -> None:
    line = "JobId=7 JobState=CANCELLED Reason=None"
    made, _ = launcher(
        tmp_path, [job("CANCELLED", nodes=""), reading(""), Reply(argv=["scontrol", "**"], stdout=line + "\n")]
    )
    death = made.wait(1)[0]
    assert (death.process, death.host, death.what) == ("job", "the queue", "job 7")
    assert death.how == "was cancelled from outside (scancel): Slurm's state CANCELLED"
    assert death.lines == [line]


def test_a_failed_node_is_named_with_the_process_that_it_held(tmp_path: Path) -> None:
    said = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n"
    replies = [
        job("RUNNING"), reading(NODES), job("NODE_FAIL", "NodeDown"), reading("", "", said, ""), NOTHING,
        Reply(argv=["sinfo", "**"], stdout="n1|idle|none\nn2|down*|Not responding\n"),
    ]  # fmt: skip
    made, _ = launcher(tmp_path, replies)
    death = next(iter(made.wait(8)))
    assert (death.process, death.host, death.ranks) == ("worker1", "b", [1])
    assert "ended: a node failed: Slurm's state NODE_FAIL, reason NodeDown; n2 is down* (Not responding)" in death.how
    assert death.lines == [said.strip()]


def test_the_first_step_to_end_is_named_first_with_its_signal_and_lines(tmp_path: Path) -> None:
    ends = "200.5 0 api\n200.1 137 worker1\n"
    replies = [
        job("RUNNING"), reading(NODES), job("FAILED", "NonZeroExitCode"), reading("", "it broke\n", "", ends), NOTHING,
    ]  # fmt: skip
    made, _ = launcher(tmp_path, replies)
    first, second = made.wait(8)
    assert (first.process, first.host, first.code, first.lines) == ("worker1", "b", -9, ["it broke"])
    assert first.how == "was ended by signal 9"
    assert second.process == "api"
    assert run_in(tmp_path, "m3-1").log("worker1").read_text() == "it broke\n"


def test_a_line_that_no_job_writes_costs_no_other(tmp_path: Path) -> None:
    replies = [
        job("RUNNING"), reading(NODES), job("FAILED"), reading("", "", "", " 143 api\n200.1 137 worker1\n"), NOTHING,
    ]  # fmt: skip
    made, _ = launcher(tmp_path, replies)
    (death,) = made.wait(8)
    assert (death.process, death.code) == ("worker1", -9)


def test_the_job_tells_a_steps_end_without_other_programs(tmp_path: Path) -> None:
    """Slurm ends a job's processes all at once: a `date` that was to tell the time would be gone before it does."""
    programs = {
        "scontrol": "#!/bin/sh\necho n1\n",
        "getent": "#!/bin/sh\necho 10.0.0.1 STREAM n1\n",
        "mv": '#!/bin/sh\nexec /bin/mv "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    folder = tmp_path / "run"
    for part in ("steps", "logs"):
        (folder / part).mkdir(parents=True)
    (folder / "hosts").write_text("a\n")
    (folder / "steps" / "api").write_bytes(b"/bin/false\0")
    script = Path(slurm.__file__).with_name("batch.sh")
    environment = {"PATH": str(tmp_path / "bin"), "SLURM_JOB_NODELIST": "n1"}
    subprocess.run(["/bin/bash", str(script), str(folder)], env=environment, check=True, timeout=30)
    at, code, name = (folder / "ended").read_text().split()
    assert (abs(float(at) - time.time()) < 60, code, name) == (True, "1", "api")


def test_a_controller_that_does_not_answer_is_no_death(tmp_path: Path) -> None:
    silent = Reply(argv=["squeue", "**"], code=1, stderr="slurm_load_jobs error: Unable to contact slurm controller\n")
    made, _ = launcher(tmp_path, [silent])
    assert made.wait(1) == []
    members, why = made.look()
    assert members == []
    assert "Unable to contact slurm controller" in why["a"]
    assert [member.health for member in made.members()] == ["unknown", "unknown"]
    assert "Unable to contact" in made.end(0)[0]


def test_end_drains_then_cancels_and_removes_the_folder(tmp_path: Path) -> None:
    made, login = launcher(tmp_path, [job("RUNNING"), job("RUNNING"), job("CANCELLED"), reading("", "", "", "")])
    assert made.end(5) == []
    called = [call.argv[:2] for call in login.calls]
    assert called.index(["touch", "--"]) < called.index(["scancel", "--signal=TERM"]) < called.index(["rm", "-rf"])
    assert login.calls[-1].argv == ["rm", "-rf", "--", "/shared/runs/m3-1"]


def test_a_refused_submission_leaves_nothing_there(tmp_path: Path) -> None:
    refused = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed\n"
    login = Fake(
        "login",
        [
            Reply(argv=["sh", "**"]), Reply(argv=["mkdir", "**"]), Reply(argv=["rm", "**"]),
            Reply(argv=["sbatch", "**"], code=1, stderr=refused),
        ],
    )  # fmt: skip
    made = slurm_launcher(tmp_path, login)
    with pytest.raises(InputError, match="would refuse the job") as caught:
        made.check()
    assert caught.value.quote == "sbatch: error: invalid partition specified: x"
    with pytest.raises(InputError, match="refuses the job"):
        made.start_all(SPECS, {})
    assert login.calls[-1].argv[0] == "rm"


def test_a_login_node_in_another_zone_tells_the_start_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's clients print local time, without its zone: here the login node's is Tokyo's, and no variable says so."""
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\necho "api|n1|$(TZ=${TZ:-JST-9} date -d @1767225600 +%Y-%m-%dT%H:%M:%S)"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("TZ", raising=False)
    assert [step.started_at for step in find_steps(Local(), "7")] == [1767225600.0]
    monkeypatch.setenv("TZ", "PST8")  # and this machine stands in a third zone
    time.tzset()
    try:
        assert [step.started_at for step in find_steps(Local(), "7")] == [1767225600.0]
    finally:
        monkeypatch.undo()
        time.tzset()
