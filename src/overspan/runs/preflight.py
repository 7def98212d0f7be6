"""Preflight as `up` uses it: what staging will mend is no reason to refuse, everything else is."""

from __future__ import annotations

from overspan.preflight import preflight
from overspan.runs.planning import processes_of
from overspan.schema.errors import HostKeyRejected, HostUnreachable, PlanRefused
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.store.run_folder import RunFolder
from overspan.transport.reach import reach

MENDED_BY_STAGING = frozenset({"preflight.image", "preflight.model"})
"""Images and model files are copied to the hosts that lack them."""

UNREACHABLE = frozenset({"preflight.ssh", "preflight.host_key"})
"""Nothing more can be asked of such a host. A host key that is not the known one is no answer of that host."""


def require_ready_hosts(run: RunFolder, plan: Plan) -> None:
    """Ask the hosts before anything is copied to or started on them; the findings stay in preflight.json.

    Raises:
        HostUnreachable: a host does not answer.
        PlanRefused: something is wrong on a host; with the cause and fix of each.
    """
    if plan.inventory.launcher != "docker":
        return
    findings = preflight(plan, reach, processes_of(plan))
    run.write("preflight.json", findings)
    failed = [each for each in findings if each.status == "failed" and each.severity == "error"]
    gone = [each for each in failed if each.rule in UNREACHABLE]
    if gone:
        kind = HostKeyRejected if gone[0].rule == "preflight.host_key" else HostUnreachable
        raise kind(_sentence(gone[0]), quote=_quote(gone[0]), next=gone[0].fix)
    reasons = [each for each in failed if each.rule not in MENDED_BY_STAGING]
    if reasons:
        sentences = [_sentence(each) for each in reasons]
        raise PlanRefused("the hosts are not ready:", sentences, quote=_quote(reasons[0]), next=reasons[0].fix)


def _sentence(finding: Finding) -> str:
    host = finding.evidence.host if finding.evidence else None
    return f"{finding.rule}{f' on {host}' if host else ''}: {finding.cause}"


def _quote(finding: Finding) -> str | None:
    return finding.evidence.text if finding.evidence else None
