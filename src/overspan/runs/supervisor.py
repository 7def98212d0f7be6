"""Owns every process of a run: starts them, watches them, waits for the right token, ends them all."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from overspan.doctor import nccl_transport
from overspan.endpoint.client import Client, NoAnswer
from overspan.engines import registry
from overspan.launchers.base import Death, Launcher
from overspan.launchers.registry import LOGIN, launcher_for, transports_of
from overspan.runs import ports, restart, supervising
from overspan.runs.join import member
from overspan.runs.join.server import Gathering
from overspan.schema.defaults import LOOPBACK, POLL_INTERVAL_S
from overspan.schema.errors import OverspanError
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder
from overspan.transport.base import Transport
from overspan.transport.ssh import Remote
from overspan.verify import known_answers, transfer


@dataclass(frozen=True)
class _Token:
    text: str
    seconds: float


@dataclass(frozen=True)
class _Verdict:
    findings: list[Finding]


@dataclass(frozen=True)
class _Refusal:
    """What the endpoint answered in place of a token."""

    line: str


_News = _Token | _Verdict | _Refusal


def supervise(run: RunFolder, guardian: int) -> None:
    """Run a planned and staged run to its end."""
    signals = supervising.Signals(guardian)
    plan = run.plan()
    transports = transports_of(plan)
    launcher: Launcher = launcher_for(run, plan, transports)
    os.chdir(run.path)
    try:
        if run.ended:  # stopped before it began
            return
        if plan.endpoint.tunnel and LOGIN not in transports:
            _tunnel(plan, transports)
        if plan.is_joiner:
            member.serve(run, plan, launcher, signals)
            return
        if plan.awaited:
            launcher = Gathering(run, plan, launcher)
        _serve(run, plan, launcher, transports, signals)
    except OverspanError as error:
        left = launcher.end(supervising.FAILED_GRACE_S)
        run.append(error.what, state="failed", lines=[error.quote] if error.quote else [], left=left)
    except BaseException as error:
        # A fault of ours must not leave a run that looks alive: end all, say so, and let it show in the log.
        launcher.end(supervising.FAILED_GRACE_S)
        run.append(f"the supervisor failed: {error!r}", state="failed", process="supervisor", lines=[])
        raise
    finally:
        run_secrets.forget(run)
        launcher.close()
        for transport in transports.values():
            transport.close()


def _serve(
    run: RunFolder, plan: Plan, launcher: Launcher, transports: Mapping[str, Transport], signals: supervising.Signals
) -> None:
    """Launch and watch, again and again as often as the recipe allows."""
    before = restart.free_bytes(plan, transports) if plan.recipe.restart else {}
    for attempt in itertools.count(1):
        if isinstance(launcher, Gathering):
            supervising.record(run, launcher, signals.guardian)
            launcher.gather(plan.recipe.ready_timeout_s, signals.ended)
        if signals.ended():
            supervising.stopped(run, plan, launcher)
            return
        supervising.launch(run, launcher, signals.guardian)
        death = _queue(run, launcher, signals)
        if death is None:
            plan = _placed(run, plan, launcher, transports)
            death = _watch(run, plan, launcher, signals)
        if death is None:
            return
        what = f"{death.what} on {death.host} {death.how}{death.whose}"
        run.append(
            f"{what}; ending the others",
            process=death.process,
            host=death.host,
            code=death.code,
            ranks=death.ranks,
            lines=death.lines,
        )
        if attempt > plan.recipe.restart:
            supervising.failed(run, launcher, what, death.lines, process=death.process, host=death.host)
            return
        launcher.end(supervising.FAILED_GRACE_S)
        pause = restart.pause_s(attempt)
        message = f"restart {attempt} of {plan.recipe.restart} in {pause:g} s, when memory is free again"
        run.append(message, state="restarting", process=death.process, host=death.host, lines=death.lines)
        signals.sleep(pause)
        restart.wait_for_memory(plan, transports, before, signals.ended)
        if signals.ended():
            run.append("stopped while it waited for a restart", state="stopped", left=[])
            return


def _queue(run: RunFolder, launcher: Launcher, signals: supervising.Signals) -> Death | None:
    """Wait for a place to run, where there is a queue, as long as it takes; a death meanwhile is returned."""
    told = None
    while (waiting := launcher.waiting()) is not None and not signals.ended():
        if waiting != told:
            run.append(waiting, state="launching")
            told = waiting
        if deaths := launcher.wait(POLL_INTERVAL_S):
            return deaths[0]
    return None


def _placed(run: RunFolder, plan: Plan, launcher: Launcher, transports: Mapping[str, Transport]) -> Plan:
    """The plan with the endpoint of the node that Slurm chose, and a way there."""
    head = launcher.address_of(plan.placements[0].host)
    if head is None:
        return plan
    run.append(f"{plan.placements[0].host} is {head}")
    login = transports[LOGIN]
    if isinstance(login, Remote):
        login.forward(plan.endpoint.port, head, plan.recipe.port)
        return plan
    placed = plan.with_(endpoint=plan.endpoint.with_(host=head))
    run.write("plan.json", placed)
    return placed


def _tunnel(plan: Plan, transports: Mapping[str, Transport]) -> None:
    """Lead this machine's port to the head's loopback, where the endpoint listens."""
    head = transports[plan.placements[0].host]
    if isinstance(head, Remote):
        head.forward(plan.endpoint.port, plan.recipe.host, plan.recipe.port)


def _watch(run: RunFolder, plan: Plan, launcher: Launcher, signals: supervising.Signals) -> Death | None:
    """Watch until something died, which is returned, or until the run has ended otherwise."""
    news: queue.SimpleQueue[_News] = queue.SimpleQueue()
    over = threading.Event()
    deadline = time.monotonic() + plan.recipe.ready_timeout_s
    workers = _workers(run, launcher)
    threading.Thread(target=_probe, args=(run, plan, workers, news, over), daemon=True).start()
    ready, refused = False, ""
    try:
        while True:
            deaths = launcher.wait(POLL_INTERVAL_S)
            if signals.stop:
                supervising.stopped(run, plan, launcher)
                return None
            if signals.alone:
                supervising.failed(run, launcher, "the guardian was killed", [])
                return None
            if deaths:
                return deaths[0]
            while not news.empty():
                item = news.get()
                if isinstance(item, _Refusal):
                    refused = item.line
                    continue
                ready = True
                supervising.record(run, launcher, signals.guardian)  # a family that is ready is whole
                if not _tell(run, plan, item):
                    supervising.failed(run, launcher, _wrong(run), [])
                    return None
            if not ready and time.monotonic() > deadline:
                what = f"no token within {plan.recipe.ready_timeout_s:g} s (ready_timeout_s of the recipe)"
                supervising.failed(run, launcher, what, [refused] if refused else [])
                return None
    finally:
        over.set()


def _wrong(run: RunFolder) -> str:
    """What a run failed by, whose answers or transfers are wrong."""
    first = next(each for each in run.findings() if each.status == "failed")
    return first.cause or first.rule if first.rule.startswith(transfer.PREFIX) else "the model's answer is wrong"


def _workers(run: RunFolder, launcher: Launcher) -> dict[str, list[str]]:
    """Where prefill and decode workers tell their metrics, by role; empty where they are not apart."""
    found: dict[str, list[str]] = {}
    for spec in run.processes():
        port = spec.ports.get("api", spec.ports.get("system"))
        if spec.role in ("prefill", "decode") and port is not None:
            address = launcher.address_of(spec.host) or LOOPBACK
            found.setdefault(spec.role, []).append(f"http://{address}:{port}")
    return found


def _probe(
    run: RunFolder,
    plan: Plan,
    workers: Mapping[str, list[str]],
    news: queue.SimpleQueue[_News],
    over: threading.Event,
) -> None:
    """Wait for a real token, then for the known answers. Until the engine listens, no answer is no news."""
    started = time.monotonic()
    client = Client(plan.endpoint, run_secrets.read(run).get(run_secrets.API_KEY))
    refused = ""
    while not over.wait(POLL_INTERVAL_S):
        try:
            text = client.one_token()
            _require_own(plan)
        except NoAnswer as error:
            if (line := f"{error.what}{f': {error.quote}' if error.quote else ''}") != refused:
                refused = line
                news.put(_Refusal(line))
            continue
        news.put(_Token(text, time.monotonic() - started))
        findings = known_answers.ask(client, plan.recipe.known_answers)
        if workers:
            root = plan.endpoint.base_url.removesuffix("/v1")
            findings += transfer.check(client, root, workers, registry.find(plan.engine.name))
        news.put(_Verdict(findings))
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


def _transport(run: RunFolder, plan: Plan) -> list[Finding]:
    """What carries the data between hosts: RDMA, or sockets with the reason. Read from the ranks' own logs."""
    if len(plan.placements) == 1:
        return []
    logs = sorted(run.logs.glob("*.log"))
    found = nccl_transport.transport_of(
        {f"logs/{log.name}": log.read_text(errors="replace").splitlines() for log in logs}
    )
    run.append(
        f"{found.cause}; fix: {found.fix}" if found.fix else f"{found.cause}",
        lines=[found.evidence.text] if found.evidence else [],
    )
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
        what = wrong[0].rule if wrong[0].rule.startswith(transfer.PREFIX) else "known answer"
        run.append(f"{what}: failed", lines=[evidence.text] if evidence else [], cause=wrong[0].cause)
        return False
    passed = [finding for finding in item.findings if finding.status == "passed"]
    for finding in passed:
        if finding.rule.startswith(transfer.PREFIX) and finding.evidence:
            run.append(finding.evidence.text)
    asked = [finding for finding in passed if not finding.rule.startswith(transfer.PREFIX)]
    said = asked[0].evidence.text if asked and asked[0].evidence else "no known answer in the recipe"
    run.append(f"known answers: {len(asked)} right: {said}", state="verified")
    return True
