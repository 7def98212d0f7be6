"""Owns every process of a run: starts them, watches them, waits for the right token, ends them all."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from overspan.doctor import nccl_transport
from overspan.endpoint.client import Client, NoAnswer, Refused
from overspan.engines import registry
from overspan.launchers.base import Death, Launcher
from overspan.launchers.registry import launcher_of
from overspan.runs import ports
from overspan.runs.join import member
from overspan.runs.join.server import JoinServer
from overspan.runs.progress import Progress, Starts
from overspan.runs.restart import FreeMemory, Restarts
from overspan.runs.supervising import FAILED_GRACE_S, Signals, Supervision
from overspan.schema.defaults import LOOPBACK, POLL_INTERVAL_S
from overspan.schema.errors import OverspanError
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.store import run_secrets, run_temporary
from overspan.store.run_folder import RunFolder
from overspan.transport.ssh import Remote
from overspan.verify import known_answers, transfer

_FINAL_CODES, _FINAL_S = frozenset({400, 422, 500}), 60.0
"""What an engine that still loads does not answer, and for how long it may all the same. 404, 429 and 502 to 504 say
"not yet" (RFC 9110, section 15): Dynamo's frontend answers 404 until its workers are there. The time is a choice."""


@dataclass(frozen=True)
class _FirstToken:
    text: str
    seconds: float


@dataclass(frozen=True)
class _Refused:
    """What the endpoint answered in place of a token."""

    line: str


_News = _FirstToken | _Refused | list[Finding]


def supervise(run: RunFolder, guardian: int) -> None:
    """Run a planned and staged run to its end."""
    signals = Signals(guardian)
    plan = run.plan()
    launcher = launcher_of(plan, run)
    joins: JoinServer | None = None
    os.chdir(run.path)
    try:
        if run.ended:  # stopped before it began
            return
        if plan.endpoint.tunnel and not plan.inventory.traits.chooses_hosts:
            # This machine's port leads to the head's loopback, where the endpoint listens.
            _forward(launcher, plan, plan.recipe.host)
        if plan.is_joiner:
            member.serve(Supervision(run, plan, launcher, signals))
            return
        if plan.awaited:
            joins = JoinServer(run, plan, launcher)
        _Head(run, plan, launcher, signals, joins).serve()
    except OverspanError as error:
        left = launcher.end(FAILED_GRACE_S)
        run.append(error.what, state="failed", lines=[error.quote] if error.quote else [], left=left)
    except BaseException as error:
        # A fault of ours must not leave a run that looks alive: end all, say so, and let it show in the log.
        left = launcher.end(FAILED_GRACE_S)
        run.append(f"the supervisor failed: {error!r}", state="failed", process="supervisor", lines=[], left=left)
        raise
    finally:
        run_secrets.forget(run)
        run_temporary.forget(run)
        if joins is not None:
            joins.close()
        launcher.close()


def _forward(launcher: Launcher, plan: Plan, address: str) -> bool:
    """Lead this machine's port to the endpoint at an address that the gateway reaches; False where that is here."""
    gateway = launcher.gateway()
    if isinstance(gateway, Remote):
        gateway.forward(plan.endpoint.port, address, plan.recipe.port)
    return isinstance(gateway, Remote)


@dataclass
class _Head(Supervision):
    """Where the endpoint is. Its supervisor decides; those of hosts that joined follow."""

    joins: JoinServer | None

    def serve(self) -> None:
        """Launch and watch, again and again as often as the recipe allows."""
        memory = FreeMemory(self.plan, self.launcher.transports) if self.plan.recipe.restart else None
        restarts = Restarts(self.plan.recipe.restart)
        while True:
            if self.joins is not None:
                self.record()
                self.joins.gather(self.plan.recipe.ready_timeout_s, self.signals.ended)
            if self.signals.ended():
                self.stopped()
                return
            self.launch()
            death = self._queue()
            if death is None:
                self._place()
                death = self._watch(restarts)
            if death is None:
                return
            what = f"{death.what} on {death.host} {death.how}{death.whose}"
            self.run.append(
                f"{what}; ending the others",
                process=death.process,
                host=death.host,
                code=death.code,
                ranks=death.ranks,
                lines=death.lines,
            )
            pause = restarts.pause_s()
            if pause is None or memory is None:
                self.failed(what, death.lines, process=death.process, host=death.host)
                return
            left = self.launcher.end(FAILED_GRACE_S)
            message = f"restart {restarts.count} of {restarts.most} in {pause:g} s, when memory is free again"
            self.run.append(message, state="restarting", process=death.process, host=death.host, lines=death.lines)
            self.signals.sleep(pause)
            memory.wait(self.signals.ended)
            if self.signals.ended():
                self.run.append("stopped while it waited for a restart", state="stopped", left=left)
                return

    def _queue(self) -> Death | None:
        """Wait for a place to run, where there is a queue, as long as it takes; a death meanwhile is returned."""
        told = None
        while (waiting := self.launcher.waiting()) is not None and not self.signals.ended():
            if waiting != told:
                self.run.append(waiting, state="launching")
                told = waiting
            if deaths := (self.joins or self.launcher).wait(POLL_INTERVAL_S):
                return deaths[0]
        return None

    def _place(self) -> None:
        """Take the endpoint of the machine that the launcher chose into the plan, with a way there."""
        plan = self.plan
        head = self.launcher.address_of(plan.placements[0].host)
        if head is None:
            return
        self.run.append(f"{plan.placements[0].host} is {head}")
        if not _forward(self.launcher, plan, head):
            self.plan = plan.with_(endpoint=plan.endpoint.with_(host=head))
            self.run.write("plan.json", self.plan)

    def _watch(self, restarts: Restarts) -> Death | None:
        """Watch until something died, which is returned, or until the run has ended otherwise."""
        news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        over = threading.Event()
        deadline = time.monotonic() + self.plan.recipe.ready_timeout_s
        asker = ThreadPoolExecutor(1, thread_name_prefix="probe")
        probe = asker.submit(_probe, self.run, self.plan, self._workers(), news, over)
        ready, refused = False, ""
        starts = Starts(self.run.logs, registry.find(self.plan.engine.name).phases, anew=restarts.count > 0)
        try:
            while True:
                deaths = (self.joins or self.launcher).wait(POLL_INTERVAL_S)
                if self.signals.stop:
                    self.stopped()
                    return None
                if self.signals.alone:
                    self.failed("the guardian was killed")
                    return None
                if deaths:
                    return deaths[0]
                self._tell_start(None if ready else starts.news())
                broken = probe.done() and probe.exception()
                while not news.empty():
                    item = news.get()
                    if isinstance(item, _Refused):
                        refused = item.line
                        continue
                    ready = True
                    restarts.serving()
                    self.record()  # a family that is ready is whole
                    if not self._tell(item):
                        return None
                if broken:
                    raise broken
                if not ready and time.monotonic() > deadline:
                    what = f"no token within {self.plan.recipe.ready_timeout_s:g} s (ready_timeout_s of the recipe)"
                    self.failed(what, [refused] if refused else [])
                    return None
        finally:
            over.set()
            asker.shutdown(wait=False)

    def _tell_start(self, now: Progress | None) -> None:
        if now is not None:
            self.run.append(now.in_full, process=now.process, phase=now.phase.name)

    def _workers(self) -> dict[str, list[str]]:
        """Where prefill and decode workers tell their metrics, by role; empty where they are not apart."""
        found: dict[str, list[str]] = {}
        for spec in self.run.processes():
            port = spec.ports.get("api", spec.ports.get("system"))
            if spec.role in ("prefill", "decode") and port is not None:
                address = self.launcher.address_of(spec.host) or LOOPBACK
                found.setdefault(spec.role, []).append(f"http://{address}:{port}")
        return found

    def _tell(self, item: _FirstToken | list[Finding]) -> bool:
        """Record news of the probe; False where the run ended as failed by a wrong one."""
        if isinstance(item, _FirstToken):
            message = f"first token after {item.seconds:.1f} s"
            self.run.append(message, state="ready", seconds=item.seconds, token=item.text)
            return True
        self.run.write("verify.json", [*item, *self._carrier()])
        for finding in item:
            if finding.status == "failed":
                of_transfer = finding.rule.startswith(transfer.PREFIX)
                lines = [finding.evidence.text] if finding.evidence else []
                named = finding.rule if of_transfer else "known answer"
                self.run.append(f"{named}: failed", lines=lines, cause=finding.cause)
                # A wrong answer has a fix; a refused question has only what the endpoint said.
                is_told = of_transfer or finding.fix is None
                self.failed((finding.cause or finding.rule) if is_told else "the model's answer is wrong", lines)
                return False
        right = []
        for finding in item:
            said = finding.evidence.text if finding.evidence else None
            if finding.status != "passed":
                continue
            if not finding.rule.startswith(transfer.PREFIX):
                right.append(said)
            elif said:
                self.run.append(said)
        if right:
            self.run.append(f"known answers: {len(right)} right: {right[0]}", state="verified")
        else:
            why = next((finding.cause for finding in item if finding.status == "not_evaluated"), None)
            self.run.append(f"nothing was verified: {why}", state="ready", settled=True)
        return True

    def _carrier(self) -> list[Finding]:
        """What carries the data between hosts: RDMA, or sockets with the reason. Read from the ranks' own logs."""
        if len(self.plan.placements) == 1:
            return []
        logs = sorted(self.run.logs.glob("*.log"))
        found = nccl_transport.transport_of(
            {f"logs/{log.name}": log.read_text(errors="replace").splitlines() for log in logs}
        )
        self.run.append(
            f"{found.cause}; fix: {found.fix}" if found.fix else f"{found.cause}",
            lines=[found.evidence.text] if found.evidence else [],
        )
        return [found]


def _probe(
    run: RunFolder, plan: Plan, workers: Mapping[str, list[str]], news: queue.SimpleQueue[_News], over: threading.Event
) -> None:
    """Wait for a real token, then for the known answers. Until the engine listens, no answer is no news."""
    started = time.monotonic()
    client = Client(plan.endpoint, run_secrets.key_of(run))
    refused, since = "", 0.0
    while not over.wait(POLL_INTERVAL_S):
        try:
            text = client.one_token()
            _require_own(plan)
        except NoAnswer as error:
            if (line := f"{error.what}{f': {error.quote}' if error.quote else ''}") != refused:
                refused = line
                news.put(_Refused(line))
            if not (isinstance(error, Refused) and error.code in _FINAL_CODES):
                since = 0.0
            elif not since:
                since = time.monotonic()
                run.append(f"the endpoint refuses a request, and is asked again: {line}")
            elif time.monotonic() - since > _FINAL_S:
                raise OverspanError(f"the endpoint refused each request for {_FINAL_S:g} s", quote=line) from None
            continue
        news.put(_FirstToken(text, time.monotonic() - started))
        findings = known_answers.ask(client, plan.recipe.known_answers, drawn=plan.recipe.has_drawn_weights)
        if workers:
            root = plan.endpoint.base_url.removesuffix("/v1")
            findings += transfer.check(client, root, workers, registry.find(plan.engine.name))
        news.put(findings)
        break
    client.close()


def _require_own(plan: Plan) -> None:
    """A right answer of somebody else's server would prove nothing.

    Raises:
        NoAnswer: it was one.
    """
    if plan.inventory.traits.here and (who := ports.stranger(plan.endpoint)) is not None:
        raise NoAnswer(
            f"port {plan.endpoint.port} on {plan.endpoint.host} is answered by {who}, which is not of this run"
        )
