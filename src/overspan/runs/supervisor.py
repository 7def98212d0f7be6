"""Owns every process of a run: starts them, watches them, waits for the right token, ends them all."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

import psutil

from overspan.checks import known_answers, nccl_transport
from overspan.checks.client import Client, NoAnswer
from overspan.launchers import proc
from overspan.launchers.base import Death, Launcher
from overspan.runs import keys, restart
from overspan.runs.folder import RunFolder
from overspan.runs.guardian import PARENT_DIED
from overspan.runs.launchers import launcher_for, transports_of
from overspan.schema.defaults import POLL_INTERVAL_S
from overspan.schema.errors import OverspanError
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.transport.base import Transport
from overspan.transport.ssh import Remote

RECORD = "supervisor.json"
_FAILED_GRACE_S = 2.0
"""After a death the others have nothing left to finish."""


@dataclass(frozen=True)
class _Token:
    text: str
    seconds: float


@dataclass(frozen=True)
class _Verdict:
    findings: list[Finding]


class _Signals:
    """What was asked of the supervisor from outside."""

    def __init__(self, guardian: int) -> None:
        self.guardian = guardian
        self.stop = False
        self.alone = os.getppid() != guardian
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(PARENT_DIED, self._on_alone)

    def ended(self) -> bool:
        """Whether somebody wants the run to end."""
        return self.stop or self.alone

    def sleep(self, seconds: float) -> None:
        """Wait, but not on after a signal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended():
            time.sleep(POLL_INTERVAL_S)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _on_alone(self, number: int, frame: FrameType | None) -> None:
        self.alone = True


def supervise(run: RunFolder, guardian: int) -> None:
    """Run a planned and staged run to its end."""
    signals = _Signals(guardian)
    plan = run.plan()
    transports = transports_of(plan)
    launcher = launcher_for(run, plan, transports)
    os.chdir(run.path)
    try:
        if run.ended:  # stopped before it began
            return
        if plan.endpoint.tunnel:
            _tunnel(plan, transports)
        _serve(run, plan, launcher, transports, signals)
    except OverspanError as error:
        left = launcher.end(_FAILED_GRACE_S)
        run.append(error.what, state="failed", lines=[error.quote] if error.quote else [], left=left)
    except BaseException as error:
        # A fault of ours must not leave a run that looks alive: end all, say so, and let it show in the log.
        launcher.end(_FAILED_GRACE_S)
        run.append(f"the supervisor failed: {error!r}", state="failed", process="supervisor", lines=[])
        raise
    finally:
        keys.forget(run)
        launcher.close()
        for transport in transports.values():
            transport.close()


def _serve(
    run: RunFolder, plan: Plan, launcher: Launcher, transports: Mapping[str, Transport], signals: _Signals
) -> None:
    """Launch and watch, again and again as often as the recipe allows."""
    before = restart.free_bytes(plan, transports) if plan.recipe.restart else {}
    for attempt in itertools.count(1):
        _launch(run, launcher, signals.guardian)
        death = _watch(run, plan, launcher, signals)
        if death is None:
            return
        what = f"{death.what} on {death.host} {death.how}"
        run.append(f"{what}; ending the others", process=death.process, host=death.host, code=death.code)
        if attempt > plan.recipe.restart:
            _fail(run, launcher, what, death.lines, process=death.process, host=death.host)
            return
        launcher.end(_FAILED_GRACE_S)
        pause = restart.pause_s(attempt)
        message = f"restart {attempt} of {plan.recipe.restart} in {pause:g} s, when memory is free again"
        run.append(message, state="restarting", process=death.process, host=death.host, lines=death.lines)
        signals.sleep(pause)
        restart.wait_for_memory(plan, transports, before, signals.ended)
        if signals.ended():
            run.append("stopped while it waited for a restart", state="stopped", left=[])
            return


def _tunnel(plan: Plan, transports: Mapping[str, Transport]) -> None:
    """Lead this machine's port to the head's loopback, where the endpoint listens."""
    head = transports[plan.placements[0].host]
    if isinstance(head, Remote):
        head.forward(plan.endpoint.port, plan.recipe.host, plan.recipe.port)


def _launch(run: RunFolder, launcher: Launcher, guardian: int) -> None:
    run.append("launching", state="launching")
    _record(run, launcher, guardian)
    specs = run.processes()
    launcher.start_all(specs, keys.read(run))
    for spec in specs:
        run.append(f"started {spec.name} on {spec.host}", process=spec.name, host=spec.host)
    _record(run, launcher, guardian)


def _record(run: RunFolder, launcher: Launcher, guardian: int) -> None:
    """Where `status` and `stop` find the supervisor and its processes; before the launch too, which may take long."""
    me = psutil.Process()
    record = {
        "pid": me.pid,
        "started_at": me.create_time(),
        "guardian": guardian,
        "session": os.getsid(0),
        "boot": proc.boot_id(),
        "members": [member.model_dump(mode="json") for member in launcher.members()],
    }
    run.record(RECORD, record)


def _watch(run: RunFolder, plan: Plan, launcher: Launcher, signals: _Signals) -> Death | None:
    """Watch until something died, which is returned, or until the run has ended otherwise."""
    news: queue.SimpleQueue[_Token | _Verdict] = queue.SimpleQueue()
    over = threading.Event()
    deadline = time.monotonic() + plan.recipe.ready_timeout_s
    threading.Thread(target=_probe, args=(run, plan, news, over), daemon=True).start()
    ready = False
    try:
        while True:
            deaths = launcher.wait(POLL_INTERVAL_S)
            if signals.stop:
                _stop(run, plan, launcher)
                return None
            if signals.alone:
                _fail(run, launcher, "the guardian was killed", [])
                return None
            if deaths:
                return deaths[0]
            while not news.empty():
                item = news.get()
                ready = True
                if not _tell(run, plan, item):
                    _fail(run, launcher, "the model's answer is wrong", [])
                    return None
            if not ready and time.monotonic() > deadline:
                what = f"no token within {plan.recipe.ready_timeout_s:g} s (ready_timeout_s of the recipe)"
                _fail(run, launcher, what, [])
                return None
    finally:
        over.set()


def _probe(run: RunFolder, plan: Plan, news: queue.SimpleQueue[_Token | _Verdict], over: threading.Event) -> None:
    """Wait for a real token, then for the known answers. Until the engine listens, no answer is no news."""
    started = time.monotonic()
    client = Client(plan.endpoint, keys.read(run).get(keys.API_KEY))
    while not over.wait(POLL_INTERVAL_S):
        try:
            text = client.one_token()
        except NoAnswer:
            continue
        news.put(_Token(text, time.monotonic() - started))
        news.put(_Verdict(known_answers.ask(client, plan.recipe.known_answers)))
        break
    client.close()


def _transport(run: RunFolder, plan: Plan) -> list[Finding]:
    """What carries the data between GPUs of several hosts: RDMA, or sockets with the reason. Read from NCCL's log."""
    if plan.inventory.device != "cuda" or len(plan.placements) == 1:
        return []
    found = nccl_transport.transport_of(
        line for log in sorted(run.logs.glob("*.log")) for line in log.read_text(errors="replace").splitlines()
    )
    if found.status == "failed":
        run.append(f"{found.cause}; fix: {found.fix}", lines=[found.evidence.text] if found.evidence else [])
    return [found]


def _tell(run: RunFolder, plan: Plan, item: _Token | _Verdict) -> bool:
    """Record news of the probe; False when the answer is wrong."""
    if isinstance(item, _Token):
        run.append(f"first token after {item.seconds:.1f} s", state="ready", seconds=item.seconds, token=item.text)
        return True
    run.write("verify.json", [*item.findings, *_transport(run, plan)])
    wrong = [finding for finding in item.findings if finding.status == "failed"]
    if wrong:
        evidence = wrong[0].evidence
        run.append("known answer: failed", lines=[evidence.text] if evidence else [], cause=wrong[0].cause)
        return False
    asked = [finding for finding in item.findings if finding.status == "passed"]
    said = asked[0].evidence.text if asked and asked[0].evidence else "no known answer in the recipe"
    run.append(f"known answers: {len(asked)} right: {said}", state="verified")
    return True


def _stop(run: RunFolder, plan: Plan, launcher: Launcher) -> None:
    run.append("stopping: streams in flight may end", state="stopping")
    # The engine's own drain ends a little before the grace, so that it is not cut off at its very end.
    left = launcher.end(plan.recipe.drain_timeout_s + 5.0)
    run.append("stopped" if not left else f"stopped, but: {'; '.join(left)}", state="stopped", left=left)


def _fail(
    run: RunFolder,
    launcher: Launcher,
    what: str,
    lines: list[str],
    *,
    process: str | None = None,
    host: str | None = None,
) -> None:
    left = launcher.end(_FAILED_GRACE_S)
    run.append(what, state="failed", process=process, host=host, lines=lines, left=left)
