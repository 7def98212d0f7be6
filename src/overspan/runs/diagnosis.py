"""What the doctor says of a run that failed."""

from __future__ import annotations

from overspan.checks.doctor import diagnose
from overspan.checks.doctor.run import context_of, events_source, sources_of
from overspan.runs.folder import RunFolder
from overspan.schema.errors import RunFailed
from overspan.schema.finding import Finding


def root_of(run: RunFolder) -> Finding | None:
    """The earliest specific cause that the logs of all ranks tell, or None where none is known."""
    events = run.events()
    logs = sorted(path for path in run.logs.glob("*.log") if path.is_file())
    sources = [*sources_of(logs, run.processes()), events_source(run.path / "events.jsonl", events)]
    findings = diagnose(sources, context_of(run.plan(), events))
    return next((finding for finding in findings if finding.status == "failed"), None)


def failure(run: RunFolder) -> RunFailed:
    """What to raise for a run that failed: what died first with its last lines, the cause and its fix where known."""
    last = run.last_state()
    lines = [str(line) for line in last.data.get("lines", [])]
    what, next_command = f"run {run.id} failed: {last.message}", f"overspan logs {run.id}"
    root = root_of(run)
    if root is not None and root.evidence is not None:
        where = f"{root.evidence.file}, line {root.evidence.line}" if root.evidence.line else root.evidence.file
        what += f"\ncause ({root.rule}): {root.cause}\n  {where}"
        lines.append(root.evidence.text)
        next_command = f"{root.fix or 'look at the quoted line'}\n      all lines: {next_command}"
    return RunFailed(what, quote="\n  | ".join(dict.fromkeys(lines)) or None, next=next_command)
