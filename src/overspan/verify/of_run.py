"""`verify` of a run: what it found is added to verify.json, and the run's events tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from overspan.schema.errors import NotReady
from overspan.schema.event import SERVING_STATES
from overspan.schema.finding import Finding
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder
from overspan.verify import RULES, Reference, Subject, VerifyRule, stored, subject_of, verify, wrong


def subject_of_run(run: RunFolder, reference: Reference | None = None) -> Subject:
    """What `verify` asks of a run.

    Args:
        run: which.
        reference: compared with; None takes the one that ships for its model, if one does.

    Raises:
        NotReady: it does not answer requests.
    """
    require_serving(run)
    plan = run.plan()
    key = run_secrets.key_of(run)
    return subject_of(plan.recipe, plan.endpoint, key, reference or stored(plan.recipe.model))


def require_serving(run: RunFolder) -> None:
    """Refuse a run that does not answer requests.

    Raises:
        NotReady: its state says so.
    """
    state = run.state()
    if state not in SERVING_STATES:
        raise NotReady(f"run {run.id} is {state}: there is nothing to verify", next=f"overspan status {run.id}")


def verify_run(
    run: RunFolder,
    rules: Mapping[str, VerifyRule] = RULES,
    *,
    reference: Reference | None = None,
    found: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Verify a run and keep the findings in its folder. For the arguments see `overspan.verify.verify`.

    Raises:
        NotReady: it does not answer requests.
    """
    findings = verify(subject_of_run(run, reference), rules, found)
    keep(run, findings)
    return findings


def keep(run: RunFolder, findings: list[Finding]) -> None:
    """Put findings into verify.json, in place of older ones of the same rules."""
    rules = {finding.rule for finding in findings}
    run.write("verify.json", [*(each for each in run.findings() if each.rule not in rules), *findings])
    bad = wrong(findings)
    counts = ", ".join(
        f"{sum(each.status == status for each in findings)} {status.replace('_', ' ')}"
        for status in ("passed", "failed", "not_evaluated")
    )
    worst = f": {bad[0].rule}: {bad[0].cause}" if bad else ""
    quote = bad[0].evidence if bad else None
    run.append(f"verify: {counts}{worst}", lines=[quote.text] if quote else [])
