"""Rules as the scan reads them: which text to look for, and from an anchor to the patterns behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from overspan.doctor import patterns
from overspan.doctor.patterns import LiteralSet, Pattern, anchors, vocabulary
from overspan.doctor.rules import LogRule, load_rules, stamps

READY_RULE = -1
"""The place of no rule: of the probes that tell that a server began, became ready, or was ended in good order."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One pattern of one rule, compiled when its anchor is first seen. `rule` is an index into the rules."""

    rule: int
    kind: str
    which: int
    text: str

    @property
    def pattern(self) -> Pattern:
        """The pattern, compiled."""
        return patterns.compile_rule_pattern(self.text)

    @property
    def key(self) -> tuple[int, str, int]:
        """What names the probe in a scan."""
        return self.rule, self.kind, self.which


@dataclass(frozen=True, eq=False)
class RuleBook:
    """What the scan needs. `probes_of[i]` are the probes behind the anchor i; the anomalies' anchors have none."""

    rules: tuple[LogRule, ...]
    probes: tuple[Probe, ...]
    anchors: tuple[str, ...]
    probes_of: tuple[tuple[int, ...], ...]

    @cached_property
    def anchor_index(self) -> dict[str, int]:
        """From an anchor, with single spaces, to its place."""
        return {" ".join(anchor.split()): index for index, anchor in enumerate(self.anchors)}

    @cached_property
    def anchor_set(self) -> LiteralSet:
        """All anchors, for which of them a line holds."""
        return LiteralSet(self.anchors)

    @cached_property
    def anomaly(self) -> Pattern:
        """What an unknown failure looks like."""
        return patterns.any_of(vocabulary()["anomalies"], fold_case=False)

    @cached_property
    def harmless(self) -> Pattern:
        """What says of a report that it is no failure."""
        return patterns.any_of(vocabulary()["harmless"])

    @cached_property
    def _prefilters(self) -> dict[tuple[bool, bool], Pattern]:
        return {}

    def prefilter(self, calm: bool, awake: bool) -> Pattern:
        """One pattern that stops at every anchor of interest; compiled once.

        Args:
            calm: anomalies are left out: there were enough of them.
            awake: signs of recovery too, which every healthy log holds: they matter once something has matched.
        """
        if (calm, awake) not in self._prefilters:
            literals = [
                self.anchors[index] for index in range(len(self.anchors)) if self._is_wanted(index, calm, awake)
            ]
            # Longest first: at one place the longer literal says more.
            ordered = sorted(literals, key=len, reverse=True)
            self._prefilters[calm, awake] = patterns.compile_pattern("|".join(map(patterns.literal, ordered)))
        return self._prefilters[calm, awake]

    def _is_wanted(self, anchor: int, calm: bool, awake: bool) -> bool:
        owners = [self.probes[owner] for owner in self.probes_of[anchor]]
        return awake or any(probe.kind != "recovered_by" for probe in owners) if owners else not calm


def load_book(folders: tuple[Path, ...] = ()) -> RuleBook:
    """The built-in rules and those of further folders; kept, so that a watcher pays once.

    Raises:
        RecipeError: a folder holds a wrong rule.
    """
    return _load(folders, stamps(folders))


@lru_cache(maxsize=4)
def _load(folders: tuple[Path, ...], _stamps: tuple[float, ...]) -> RuleBook:
    return make_book(load_rules(folders))


def make_book(rules: Sequence[LogRule]) -> RuleBook:
    """A book of rules. Patterns and automata are compiled when a scan first needs them."""
    probes = [
        Probe(index, kind, which, pattern)
        for index, rule in enumerate(rules)
        for kind, texts in rule.looked_for
        for which, pattern in enumerate(texts)
    ]
    for kind, all_of in vocabulary()["course"].items():
        probes += [Probe(READY_RULE, kind, which, one) for which, one in enumerate(all_of)]
    by_anchor: dict[str, list[int]] = {anchor: [] for anchor in vocabulary()["anomaly_anchors"]}
    for index, probe in enumerate(probes):
        for anchor in anchors(probe.text):
            by_anchor.setdefault(anchor, []).append(index)
    return RuleBook(tuple(rules), tuple(probes), tuple(by_anchor), tuple(map(tuple, by_anchor.values())))
