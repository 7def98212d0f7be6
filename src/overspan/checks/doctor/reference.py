"""docs/doctor.md, from the rules: `python -m overspan.checks.doctor.reference > docs/doctor.md`."""

from __future__ import annotations

from collections.abc import Sequence

from overspan.checks.doctor.rules import Rule, load_rules

_HEAD = """\
# What the doctor knows

Generated from `src/overspan/checks/doctor/rules/` by `make doctor-docs`; do not edit.

`overspan doctor RUN`, `overspan doctor --log FILE`, or text on standard input with `-`. Findings come root first.
A rule is `failed`, `passed`, or `not_evaluated` (and then says why). Stages: a **cause** names itself; a **general**
error narrows it down; a **consequence** is what other ranks see; a **wrapper** says only that something below failed;
a **sign** is slow, not dead. A later stage never wins over an earlier one, on whichever rank it stands.

Your own rules: a folder of `*.yaml` files like those, given with `--rules DIR`; a rule of the same id replaces ours.

How each was tested: every rule has cases that it must match, as the root, and near misses that it must not
(`tests/doctor/test_rules.py`). Those whose source says `corpus` are tested on real reports too
(`tests/doctor/test_corpus.py`). None was provoked on real accelerators. The checks before a launch stand here as
what to run by hand; those that Overspan runs itself are listed by `overspan doctor --preflight`.
"""


def render(rules: Sequence[Rule]) -> str:
    """The reference page."""
    parts = [_HEAD]
    category = ""
    for rule in rules:
        if rule.category != category:
            category = rule.category
            parts.append(f"\n## {category}\n")
        parts.append(_section(rule))
    return "\n".join(parts)


def _section(rule: Rule) -> str:
    lines = [
        f"### {rule.id}",
        f"{rule.title}. Stage: {rule.stage}; severity: {rule.severity}.",
        "",
        f"- Cause: {rule.cause}",
        f"- Fix: {rule.fix}",
    ]
    if rule.preflight:
        lines.append(f"- Before the launch: {rule.preflight}")
    lines.append(f"- Source: {rule.source}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(load_rules()), end="")
