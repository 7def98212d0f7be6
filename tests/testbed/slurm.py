"""A real Slurm whose nodes are the bed's hosts: munge and the controller on this machine, a slurmd in each host.

What follows one machine: the controller listens on the bridge's address alone; GPUs are stand-in devices; there is no
accounting. Nodes are declared dead soon, so that tests need not wait for minutes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.commands import sh

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "munged")
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
START_TIMEOUT_S = 60.0
GPUS = 4
CONTROLLER = "controller"
WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # a test run that is killed leaves no daemon behind
NULL_MAJOR_MINOR = os.makedev(1, 3)


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]


@dataclass
class Slurm:
    """The cluster. `folder` is on shared storage: every host sees it at the same place."""

    folder: Path
    address: str
    nodes: dict[str, str]
    gpus: int = GPUS
    _controller: subprocess.Popen[bytes] | None = None
    _munged: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """A value for SLURM_CONF."""
        return self.folder / "slurm.conf"

    def start(self) -> None:
        """Write the configuration, start munge and the controller; the hosts start their slurmd themselves."""
        for name in ("ctld", "log", "run", "munge", "shared", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(self.gpus):
            os.mknod(self.folder / "dev" / f"nvidia{index}", 0o666 | 0o020000, NULL_MAJOR_MINOR)
        self.conf.write_text(_slurm_conf(self))
        devices = self.folder / "dev" / f"nvidia[0-{self.gpus - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName={','.join(self.nodes)} Name=gpu File={devices}\n")
        self.env = {"SLURM_CONF": str(self.conf)}
        self._start_munge()
        self.start_controller()

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o600)
        for path in (folder, folder / "munge.key"):
            shutil.chown(path, "munge", "munge")
        folder.chmod(0o711)
        names = {"key-file": "munge.key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        # --force: a folder above that its group may write to, as /var/lib on some machines, is no concern of a test.
        self._munged = subprocess.Popen(
            [*WITH_US, _program("munged"), "--foreground", "--force", *options],
            user="munge",
            group="munge",
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_for("munged", (folder / "socket").exists)

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        with (self.folder / "log" / "slurmctld.out").open("ab") as log:
            self._controller = subprocess.Popen(
                [*WITH_US, *self._named(), _program("slurmctld"), "-D", "-f", str(self.conf)],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for("slurmctld", lambda: "is UP" in self.run("scontrol", "ping", check=False))

    def _named(self) -> list[str]:
        """The controller binds to its own host name's address alone: give it a name whose address is the bridge's."""
        hosts = self.folder / "run" / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.address} {CONTROLLER}\n")
        text = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
        return ["unshare", "--mount", "--uts", "sh", "-c", text, "sh", CONTROLLER, str(hosts)]

    def ensure_controller(self) -> None:
        """Start the controller again where a test has stopped it."""
        if self._controller is None:
            self.start_controller()

    def stop_controller(self) -> None:
        """Stop the controller as a restart does: it keeps its jobs, which a killed one forgets if they just began."""
        if self._controller is not None:
            self._controller.terminate()
            self._controller.wait(START_TIMEOUT_S)
            self._controller = None

    def stop(self) -> None:
        """End the controller and munge."""
        self.stop_controller()
        if self._munged is not None:
            self._munged.terminate()
            self._munged.wait(START_TIMEOUT_S)
            self._munged = None

    def run(self, *argv: str, check: bool = True) -> str:
        """Run one of Slurm's commands on this machine, as on a login node."""
        return sh(["env", *(f"{name}={value}" for name, value in self.env.items()), *argv], check=check)

    def wait_for_nodes(self, names: Sequence[str] | None = None) -> None:
        """Until the nodes are idle; a node that was off is declared well again."""
        wanted = set(names or self.nodes)

        def idle() -> bool:
            rows = self.run("sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N %t").split("\n")
            states = dict(row.split() for row in rows if row)
            for name in wanted:
                if states.get(name, "").startswith(("down", "drain")) and not states[name].endswith("*"):
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)
            return all(states.get(name) == "idle" for name in wanted)

        self._wait_for(f"nodes {', '.join(sorted(wanted))}", idle)

    def jobs(self) -> list[str]:
        """Every job that has not ended: id, state and name."""
        return self.run("squeue", "--noheader", "--format=%i %T %j").splitlines()

    def clear(self) -> None:
        """Cancel every job and wait until the nodes are free."""
        for job in self.jobs():
            self.run("scancel", job.split()[0], check=False)
        self._wait_for("the end of every job", lambda: not self.jobs())

    def _wait_for(self, what: str, done: object) -> None:
        assert callable(done)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(RuntimeError):
                if done():
                    return
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"{path.name}: {path.read_text()[-2000:]}" for path in (self.folder / "log").glob("slurmctld*")
                )
                raise RuntimeError(f"{what} of Slurm did not come\n{logs}")
            time.sleep(0.05)


def _program(name: str) -> str:
    return shutil.which(name, path=SBIN) or name


def _slurm_conf(slurm: Slurm) -> str:
    folder = slurm.folder
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr={address} CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 "
        f"RealMemory=4000 Gres=gpu:{slurm.gpus} State=UNKNOWN"
        for name, address in slurm.nodes.items()
    )
    return f"""\
ClusterName=overspan
SlurmctldHost={CONTROLLER}({slurm.address})
SlurmctldPort=6817
CommunicationParameters=NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/ctld
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir={folder}/run/spool-%n
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=2
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
"""
