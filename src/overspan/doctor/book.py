"""Rules compiled for the scan: one automaton over every anchor, and from an anchor to the patterns behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from overspan.doctor.anchors import anchors
from overspan.doctor.engine import Pattern, PatternSet, compile_pattern, escape
from overspan.doctor.rules import PATTERN_FIELDS, Rule, load_rules, stamps, to_re2

READY = (
    "Application startup complete",
    r"Uvicorn running on http",
    r"Starting vLLM API server \d* ?on http",
)
"""A server that says one of these has started: what was logged before it did not stop it. vLLM 0.6 to 0.32, uvicorn."""

ANOMALIES = (
    r"Traceback \(most recent call last\)",
    r"\bERROR\b",
    r"\bFATAL\b",
    r"\bCRITICAL\b",
    r"\w+Error\b",
    r"\w+Exception\b",
    "Segmentation fault",
    "core dumped",
    "terminate called",
    "NCCL WARN",
    "panicked at",
    "Aborted",
    "Killed",
    r"error: \S",
    r"command not found",
    r"Failed to \w+",
)
"""What an unknown failure looks like, whatever it is."""
REASSURED = (
    r"(?:won.t|will not|does(?: not|n.t)) affect",
    r"can (?:be )?(?:safely )?(?:be )?ignored?\b",
    r"safe(?:ly)? (?:to )?ignore",
    r"\bharmless\b",
    r"\bnon-fatal\b|\bnot fatal\b",
    r"this is (?:expected|normal|not an error)\b",
)
"""Who says one of these of what he reports does not report a failure, whatever else the line says."""

_ANOMALY_ANCHORS = (
    *("traceback (most recent", "error", "fatal", "critical", "exception", "segmentation fault", "core dumped"),
    *("terminate called", "nccl warn", "panicked at", "aborted", "killed", "command not found", "failed to"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One pattern of one rule. `rule` is an index, or -1 for the readiness of a server."""

    rule: int
    kind: str
    which: int
    pattern: Pattern


@dataclass(frozen=True)
class Book:
    """What the scan needs. `probes_of[i]` are the probes behind the anchor i; the anomaly anchors have none.

    `prefilters` by (calm, awake): a calm one leaves anomalies out, when there were enough of them; an awake one looks
    for signs of recovery too, which stand in every healthy log and matter only once something has matched.
    """

    rules: tuple[Rule, ...]
    probes: tuple[Probe, ...]
    forbids: tuple[tuple[Pattern, ...], ...]
    anchors: tuple[str, ...]
    probes_of: tuple[tuple[int, ...], ...]
    anchor_index: dict[str, int]
    prefilters: dict[tuple[bool, bool], Pattern]
    anchor_set: PatternSet
    anomaly: Pattern
    reassured: Pattern

    @property
    def alternations(self) -> int:
        """How many literals the automaton of the fast scan looks for at once."""
        return len(self.anchors)


def load_book(folders: tuple[Path, ...] = ()) -> Book:
    """The built-in rules and those of further folders, compiled; kept, so that a watcher pays once.

    Raises:
        RecipeError: a folder holds a wrong rule.
    """
    return _load(folders, stamps(folders))


@lru_cache(maxsize=4)
def _load(folders: tuple[Path, ...], _stamps: tuple[float, ...]) -> Book:
    return compile_book(load_rules(folders))


def compile_book(rules: tuple[Rule, ...]) -> Book:
    """Compile rules."""
    probes = [*_rule_probes(rules), *_ready_probes(READY)]
    by_anchor: dict[str, list[int]] = {anchor: [] for anchor in _ANOMALY_ANCHORS}
    for index, (_, pattern) in enumerate(probes):
        for anchor in anchors(pattern):
            by_anchor.setdefault(anchor, []).append(index)
    literals = tuple(by_anchor)

    def wanted(anchor: str, *, calm: bool, awake: bool) -> bool:
        if anchor in _ANOMALY_ANCHORS and not by_anchor[anchor]:
            return not calm
        return awake or any(probes[owner][0].kind != "recovered_by" for owner in by_anchor[anchor])

    return Book(
        rules=rules,
        probes=tuple(probe for probe, _ in probes),
        forbids=tuple(tuple(compile_pattern(to_re2(text)) for text in rule.forbid) for rule in rules),
        anchors=literals,
        probes_of=tuple(tuple(by_anchor[anchor]) for anchor in literals),
        anchor_index={" ".join(anchor.split()): index for index, anchor in enumerate(literals)},
        prefilters={
            (calm, awake): _one_of([one for one in literals if wanted(one, calm=calm, awake=awake)])
            for calm in (False, True)
            for awake in (False, True)
        },
        anchor_set=PatternSet(escape(anchor) for anchor in literals),
        anomaly=compile_pattern(_any_of(ANOMALIES), fold_case=False),
        reassured=compile_pattern(_any_of(REASSURED)),
    )


def _rule_probes(rules: Sequence[Rule]) -> list[tuple[Probe, str]]:
    return [
        (Probe(index, kind, which, compile_pattern(to_re2(pattern))), pattern)
        for index, rule in enumerate(rules)
        for kind in PATTERN_FIELDS
        if kind != "forbid"
        for which, pattern in enumerate(getattr(rule, kind))
    ]


def _ready_probes(patterns: Sequence[str]) -> list[tuple[Probe, str]]:
    return [
        (Probe(-1, "ready", which, compile_pattern(to_re2(pattern))), pattern) for which, pattern in enumerate(patterns)
    ]


def _any_of(patterns: Sequence[str]) -> str:
    return "|".join(f"(?:{to_re2(pattern)})" for pattern in patterns)


def _one_of(literals: Sequence[str]) -> Pattern:
    # Longest first: at one place the longer literal says more.
    ordered = sorted(literals, key=len, reverse=True)
    return compile_pattern("|".join(escape(literal) for literal in ordered))
