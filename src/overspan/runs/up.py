"""`up`: from a recipe to a verified endpoint. It plans and stages; the supervisor launches and lives on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from overspan import __version__
from overspan.doctor.of_run import failure
from overspan.engines import registry
from overspan.launchers.base import Launcher
from overspan.launchers.registry import launcher_of
from overspan.launchers.staging import apply_patches, stage_model, with_plugin
from overspan.preflight import blocking, preflight, unreachable
from overspan.provision import models
from overspan.runs import guardian, ports
from overspan.runs.join import facts
from overspan.runs.join.member import call, head_address, hello_of, reach_head
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.runs.stop import stop
from overspan.schema.errors import HostKeyRejected, HostUnreachable, InputError, NotReady, PlanRefused, RunFailed
from overspan.schema.event import Event
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.schema.recipe import Lock, Recipe
from overspan.schema.yamlio import dump
from overspan.store import run_secrets
from overspan.store.files import write_whole
from overspan.store.locks import NameLock, Say, is_held
from overspan.store.run_folder import RunFolder
from overspan.transport import local
from overspan.transport.reach import reach

Follow = Callable[[RunFolder, Iterator[Event | None]], None]
"""Given a run and its events as they come (None: no news), until it is verified or failed."""

Refuse = Callable[[RunFolder, Plan], None]
"""May refuse, by raising, a run that is staged."""

_FOLLOW_INTERVAL_S = 0.1

_MENDED_BY_STAGING = frozenset({"preflight.image", "preflight.model"})
"""Images and model files are copied to the hosts that lack them."""


def up(wanted: Wanted, say: Say, follow: Follow) -> RunFolder:
    """Start a run and stay until it is verified.

    Whatever interrupts it, nothing is left behind: before the launch the run's folder goes, after it the run is
    stopped and its logs stay.

    Args:
        wanted: what to start.
        say: told what is being prepared.
        follow: shows the run.

    Raises:
        InputError: it cannot start; nothing was started.
        RunFailed: it started and died; quotes the last lines of what died first.
        NotReady: somebody stopped it.
    """
    return start(wanted.name, plan_of(wanted, to_start=True, say=say), say, follow)


def start(name: str | None, plan: Plan, say: Say, follow: Follow, before_launch: Refuse | None = None) -> RunFolder:
    """The same for a plan that is made."""
    return verified(launched(name, plan, say, before_launch), follow)


def launched(name: str | None, plan: Plan, say: Say, before_launch: Refuse | None = None) -> RunFolder:
    """The run of a plan, handed to its supervisor: it loads. `verified` waits for it."""
    with closing(NameLock(name or plan.recipe.name)) as lock:
        run = _staged(lock, plan, say, before_launch)
        try:
            launch(run, lock)
        except BaseException:
            stop(run, grace_s=0.0)
            raise
    return run


def launch(run: RunFolder, lock: NameLock) -> None:
    """Hand a staged run to a guardian and supervisor of its own, in a session of their own. They inherit the lock."""
    log, argv = run.path / "supervisor.log", guardian.command(run)
    local.spawn(argv, log=log, env=os.environ, new_session=True, keep_open=[lock.descriptor])


def verified(run: RunFolder, follow: Follow) -> RunFolder:
    """The run, once it is verified; what interrupts the wait stops it.

    Raises:
        RunFailed: it died.
        NotReady: somebody stopped it.
    """
    try:
        follow(run, _events(run))
    except BaseException:
        stop(run, grace_s=0.0)
        raise
    if run.state() == "failed":
        raise failure(run)
    if run.ended:
        raise NotReady(f"run {run.id} was stopped from elsewhere before it was ready", next=f"overspan status {run.id}")
    return run


def _staged(lock: NameLock, plan: Plan, say: Say, before_launch: Refuse | None) -> RunFolder:
    """The folder of a run that is ready to be launched; gone again when that does not come to pass."""
    run = RunFolder.create(lock.name)
    try:
        lock.take(run.id)
        with launcher_of(plan, run) as launcher:
            staged = _stage(run, plan, launcher, say)
        if plan.part is not None:
            run.record(facts.FILE, facts.of(staged))
        if before_launch is not None:
            before_launch(run, staged)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    return run


def _stage(run: RunFolder, plan: Plan, launcher: Launcher, say: Say) -> Plan:
    on_this_machine = plan.inventory.is_here(launcher.hosts[0])
    claimed = not plan.is_joiner and (on_this_machine or plan.endpoint.tunnel)
    if claimed:
        plan = plan.with_(endpoint=ports.claim(plan.endpoint))
    run_secrets.require(plan.recipe.secrets)
    run.write("plan.json", plan)  # for `status` while it is staged, which may take long
    recipe, hosts = plan.recipe, dict.fromkeys(placement.host for placement in plan.placements)
    run.append(f"planned {plan.layout.label} of {recipe.model} on {', '.join(hosts)}", state="planned")
    launcher.check()
    if launcher.asks_hosts:
        known = {plan.endpoint.port} if claimed and on_this_machine else set()
        _require_ready_hosts(run, plan, launcher.asked_checks, known)
    engine = registry.find(plan.engine.name)
    plan, model = stage_model(plan, say) if engine.loads_weights else (plan, None)
    if recipe.locked and model and recipe.locked.model_digest != model.digest:
        raise InputError(
            f"the model's files differ from those of run {recipe.locked.run}: "
            f"digest {model.digest}, locked {recipe.locked.model_digest}",
            next="pin the revision that the lock names, or start from the recipe in place of the lock",
        )
    plan = launcher.stage(plan, say, prepared_here=model is not None)
    apply_patches(plan, launcher.gateway(), say)
    run.write("plan.json", plan)
    specs, told = with_plugin(plan, processes_of(plan), launcher, say)
    run.write("processes.json", launcher.placed(specs))
    if told:
        run.append(told)
    run_secrets.make(run, plan, engine.key_variable, engine.tokens)
    write_whole(run.path / "run.lock.yaml", dump(_locked(run, plan, model)))
    where = f"the model is at {plan.model_path}" if plan.model_path else f"{engine.title} needs no files of the model"
    run.append(f"staged: {where}", state="staged")
    return plan


def _require_ready_hosts(run: RunFolder, plan: Plan, only: frozenset[str] | None, free_ports: set[int]) -> None:
    """Ask the hosts before anything is copied to or started on them; the findings stay in preflight.json.

    Args:
        run, plan: what is to start.
        only: the checks that are asked, by their rules; None: all.
        free_ports: that were looked at already.

    Raises:
        HostUnreachable: a host does not answer.
        PlanRefused: something is wrong on a host that staging does not mend; with the cause and fix of each.
    """
    specs = [
        spec.with_(ports={name: port for name, port in spec.ports.items() if port not in free_ports})
        for spec in processes_of(plan)
    ]
    findings = preflight(plan, reach, specs, only)
    run.write("preflight.json", findings)
    wrong = [each for each in blocking(findings) if each.rule not in _MENDED_BY_STAGING]
    if not wrong:
        return
    first = next((each for each in wrong if unreachable([each])), wrong[0])
    quote = first.evidence.text if first.evidence else None
    if unreachable(wrong):
        # A host key that is not the known one is no answer of that host.
        kind = HostKeyRejected if first.rule == "preflight.host_key" else HostUnreachable
        raise kind(_sentence(first), quote=quote, next=first.fix)
    raise PlanRefused("the hosts are not ready:", map(_sentence, wrong), quote=quote, next=first.fix)


def _sentence(finding: Finding) -> str:
    host = finding.evidence.host if finding.evidence else None
    return f"{finding.rule}{f' on {host}' if host else ''}: {finding.cause}"


def _locked(run: RunFolder, plan: Plan, model: models.PreparedModel | None) -> Recipe:
    recipe = plan.recipe
    lock = Lock(
        run=run.id,
        overspan_version=__version__,
        engine_version=plan.engine.version,
        model_digest=plan.model_digest or "",
        model_revision=model.revision if model else recipe.revision,
    )
    return recipe.with_(
        model=str(model.path) if model and model.source == "folder" else recipe.model,
        revision=model.revision if model and model.source == "hub" else recipe.revision,
        port=plan.endpoint.port,
        locked=lock,
    )


def _events(run: RunFolder) -> Iterator[Event | None]:
    """Events as they come, and None while there is no news, until the run is verified or over.

    Raises:
        RunFailed: nobody owns the run any more, and no event tells its end.
    """
    seen = 0
    while True:
        owned = is_held(run.name)  # asked first: the last event is written before the run is let go
        events = run.events()
        yield from events[seen:]
        seen = len(events)
        if any(event.settles for event in events):
            return
        if not owned:
            raise RunFailed(f"run {run.id} failed: {run.standing().message}", next=f"overspan logs {run.id}")
        yield None
        time.sleep(_FOLLOW_INTERVAL_S)


def join(head: str, wanted: Wanted, say: Say, follow: Follow) -> RunFolder:
    """Start this host's ranks beside a head, and stay until the head's run is verified.

    Args:
        head: the head's name in the inventory, or an address of it.
        wanted: the same recipe, inventory and overrides as on the head, with part `joiner`.
        say: told what is being prepared.
        follow: see `up`.

    Raises:
        InputError: it cannot join: another head, another plan, no part for this host; nothing was started.
        HostUnreachable: the head does not answer, or no run there awaits hosts.
        RunFailed: it joined, and the run died.
    """
    plan = plan_of(wanted, to_start=True, say=say)
    _require_head(plan, head)
    reach_head(plan).close()

    def require_welcome(run: RunFolder, plan: Plan) -> None:
        """Ask before anything is launched, so that what differs is told here and at once."""
        line, _ = call(plan, hello_of(run, plan, only_ask=True))
        line.close()

    return start(wanted.name, plan, say, follow, before_launch=require_welcome)


def _require_head(plan: Plan, head: str) -> None:
    host = plan.host(plan.head)
    known = {host.name, head_address(plan)} | ({host.ssh.address} if host.ssh else set())
    known |= {address.partition("/")[0] for nic in host.nics for address in nic.addresses}
    if head not in known:
        raise InputError(
            f"the head of this plan is {plan.head} ({head_address(plan)}), not {head}",
            next=f"overspan join {plan.head} ..., or give the inventory whose first host is {head}",
        )
