"""What the guardian ends when the supervisor is gone."""

import os
import subprocess
import sys
from pathlib import Path

from overspan.schema.inventory import Host
from overspan.store.run_folder import RunFolder
from support.plans import plan_on, run_in

PROGRAM = """
import os, sys
from pathlib import Path
from overspan.launchers.docker import DockerLauncher
from overspan.runs import guardian
from overspan.store.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
class OnOtherHosts(DockerLauncher):
    def end(self, grace_s):
        (run.path / "ended").write_text(str(grace_s))
        return ["node2 does not answer"]
guardian._supervise = lambda *_: os.kill(os.getpid(), 9)
import overspan.launchers.docker
overspan.launchers.docker.LAUNCHER = OnOtherHosts
guardian.main(run)
"""


def test_what_runs_on_other_hosts_is_ended_when_the_supervisor_was_killed(tmp_path: Path) -> None:
    run: RunFolder = run_in(tmp_path)
    run.write("plan.json", plan_on([Host(name="node2", memory_bytes=1)], launcher="docker"))
    run.append("launching", state="launching")
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", PROGRAM, str(run.path)], env={**os.environ, "PYTHONPATH": path}, check=True)
    assert (run.path / "ended").read_text() == "0"
    last = run.last_state()
    assert (last.state, last.data["left"]) == ("failed", ["node2 does not answer"])
    assert last.message == "the supervisor was ended by signal 9; its 0 processes here were ended"
