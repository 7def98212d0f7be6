"""docs/doctor.md, from the rules: `python -m overspan.doctor.reference tests/doctor > docs/doctor.md`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from overspan.doctor.rules import LogRule, load_rules

_HEAD = """\
# What the doctor knows

Generated from `src/overspan/doctor/rules/` by `make doctor-docs`; do not edit.

`overspan doctor RUN`, `overspan doctor --log FILE`, or text on standard input with `-`. Findings come root first.
A rule is `failed`, `passed`, or `not_evaluated` (and then says why). Stages: a **cause** names itself; a **general**
error narrows it down; an **area** is an exception that nothing else knows, by the part of the engine it was raised in;
a **consequence** is what other ranks see; a **wrapper** says only that something below failed;
a **sign** is slow, not dead. A later stage never wins over an earlier one, on whichever rank it stands.

Your own rules: a folder of `*.yaml` files like those, given with `--rules DIR`; a rule of the same id replaces ours.

How each was tested stands with it: its own cases (it must be the root of each) and near misses (it must not match), and
real reports, with their public addresses in `tests/doctor/held_out/`, of which it must be the root. Logs that only look
alarming must name nothing; all of both keep their finding under stamps, wraps and mixes (tests/doctor/test_hostile.py).
None was provoked on real accelerators. "Before the launch" is what to run by hand; "Overspan asks" names the checks of
`overspan doctor --preflight`, with command, cost and how each was tested in [preflight.md](preflight.md).

Five signs are read from a run's documents too (tests/doctor/test_signs.py): `bench-client-bound` from bench.json;
`gpu-busy-low-power` from bench.json and, of a living run, its hosts; `one-hca-of-two` from the plan's hosts and
NCCL_IB_HCA of each process; `page-cache-holds-memory` from the hosts of a living run; `nccl-on-sockets-slow` from what
`verify` read of NCCL's channels.
"""


def reports_in(folder: Path) -> Counter[str]:
    """How many real reports of each class the tests have."""
    files = sorted(folder.glob("*/failures.jsonl"))
    return Counter(json.loads(line)["id"] for file in files for line in file.read_text("utf-8").splitlines())


def render(rules: Sequence[LogRule], reports: Mapping[str, int]) -> str:
    """The reference page."""
    parts = [_HEAD]
    category = ""
    for rule in rules:
        if rule.category != category:
            category = rule.category
            parts.append(f"\n## {category}\n")
        parts.append(_section(rule, reports.get(rule.id, 0)))
    return "\n".join(parts)


def _section(rule: LogRule, reports: int) -> str:
    lines = [
        f"### {rule.id}",
        f"{rule.title}. Stage: {rule.stage}; severity: {rule.severity}.",
        "",
        f"- Cause: {rule.cause}",
        f"- Fix: {rule.fix}",
    ]
    if rule.preflight:
        lines.append(f"- Before the launch: {rule.preflight}")
    if rule.checked_by:
        lines.append(f"- Overspan asks before a launch: {', '.join(map(_by_whom, rule.checked_by))}")
    lines.append(f"- Source: {rule.source}")
    cases = rule.cases
    lines.append(f"- Tested: {len(cases.match)} cases, {len(cases.near_miss)} near misses, {reports} real reports")
    return "\n".join(lines) + "\n"


def _by_whom(name: str) -> str:
    named = {"plan": "`overspan plan` refuses it", "submission": "`sbatch --test-only` at submission"}
    return named.get(name, f"`{name}`")


if __name__ == "__main__":
    print(render(load_rules(), reports_in(Path(sys.argv[1]))), end="")
