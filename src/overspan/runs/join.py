"""`join`: this host's ranks of a run whose head was started on another host with `up --join-later`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from overspan.runs.folder import RunFolder
from overspan.runs.joined import call, head_address, hello_of, reach_head
from overspan.runs.planning import Wanted, plan_of
from overspan.runs.up import Say, start
from overspan.schema.errors import InputError
from overspan.schema.event import Event
from overspan.schema.plan import Plan


def join(head: str, wanted: Wanted, say: Say, follow: Callable[[RunFolder, Iterator[Event | None]], None]) -> RunFolder:
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
    plan = plan_of(wanted, to_start=True)
    _require_head(plan, head)
    reach_head(plan).close()
    return start(wanted.name, plan, say, follow, before_launch=_require_welcome)


def _require_head(plan: Plan, head: str) -> None:
    host = next(each for each in plan.inventory.hosts if each.name == plan.head)
    known = {host.name, head_address(plan)} | ({host.ssh.address} if host.ssh else set())
    known |= {address.partition("/")[0] for nic in host.nics for address in nic.addresses}
    if head not in known:
        raise InputError(
            f"the head of this plan is {plan.head} ({head_address(plan)}), not {head}",
            next=f"overspan join {plan.head} ..., or give the inventory whose first host is {head}",
        )


def _require_welcome(run: RunFolder, plan: Plan) -> None:
    """Ask before anything is launched, so that what differs is told here and at once."""
    line, _ = call(plan, hello_of(run, plan, only_ask=True))
    line.close()
