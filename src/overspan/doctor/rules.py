"""Rules as data: one YAML file a category, which an operator reads and adds to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from overspan.doctor.patterns import BadPattern, anchors, compile_rule_pattern
from overspan.schema.base import Frozen
from overspan.schema.errors import RecipeError, did_you_mean
from overspan.schema.finding import Finding, Status
from overspan.schema.reading import read_text
from overspan.schema.yamlio import make, plain, read_yaml

BUILT_IN = Path(__file__).parent / "rules"

RuleStage = Literal["cause", "general", "area", "consequence", "wrapper", "sign"]
"""How telling a rule is, from the most to the least.

`cause`: a message that names its cause. `general`: an error whose cause the message only narrows down. `area`: an
exception that nothing else knows, by the part of the engine it was raised in. `consequence`: what the other ranks see
of a death or a hang. `wrapper`: says only that something below failed. `sign`: slow, not dead.
"""
CONFIDENCE: Final[dict[RuleStage, float]] = {
    "cause": 0.9, "general": 0.6, "area": 0.4, "consequence": 0.5, "wrapper": 0.3, "sign": 0.7,
}  # fmt: skip
"""How sure a plain match is, by the stage of its rule. A choice."""

STAGES: Final = tuple(CONFIDENCE)
SEEN, AGAINST = "seen:", "against:"
PATTERN_FIELDS = ("match", "hints", "forbid", "needs", "needs_all", "unless", "recovered_by")

SHIPPED: dict[str, Any] = {}
"""The context in which the rules of this package are read: the tests have compiled their patterns. It takes 0.15 s."""


class Cases(Frozen):
    """Text that the rule must match, and text that is near and must not match."""

    match: list[str] = Field(min_length=1)
    near_miss: list[str] = Field(min_length=1)


def _compiled(patterns: list[str], info: ValidationInfo) -> list[str]:
    for pattern in patterns if info.context is not SHIPPED else ():
        try:
            compile_rule_pattern(pattern)
            if info.field_name != "forbid":
                anchors(pattern)
        except BadPattern as error:
            raise ValueError(f"pattern {pattern!r}: {error}") from None
    return patterns


Patterns = Annotated[list[str], AfterValidator(_compiled)]


class PossibleCause(Frozen):
    """One of several causes of one text. What else the logs (or a process's command line) hold tells them apart."""

    why: str = Field(min_length=5, description="the cause, as a sentence without its end")
    tell: str | None = Field(None, description="what would tell it from the others")
    fix: str | None = Field(None, description="what mends this one; none: the rule's own")
    seen_by: Patterns = Field(default_factory=list, description="one of these anywhere: it is this one")
    not_with: Patterns = Field(default_factory=list, description="one of these anywhere: it is not this one")
    differ: tuple[str, str] | None = Field(None, description="two named groups of `match`: this one if they differ")


class LogRule(Frozen):
    """One class of failure.

    Patterns are RE2 over one message without its prefix. A space stands for any white space, a line break of the same
    stream included; `.` stays within a line. Named groups of `match` can be used in `cause` and `fix` as `{name}`,
    beside what is known of the run: `{image}`, `{model}`, `{head}`, `{host}`, `{hosts}`, `{address}`, `{interface}`,
    `{hcas}`, `{port}`.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{2,63}$")
    title: str = Field(min_length=5)
    stage: RuleStage = "cause"
    severity: Literal["error", "warning", "info"] = "error"
    match: Patterns = Field(min_length=1, description="one of these is the failure")
    hints: Patterns = Field(default_factory=list, description="one of these is it, if nothing more telling is found")
    forbid: Patterns = Field(default_factory=list, description="on the same lines: then it is not this")
    needs: Patterns = Field(default_factory=list, description="one of these must occur, else the rule cannot be judged")
    needs_all: Patterns = Field(default_factory=list, description="all must occur in the same log, in this order")
    unless: Patterns = Field(default_factory=list, description="anywhere in the logs: then it is not this")
    recovered_by: Patterns = Field(default_factory=list, description="later in the same log: then it is over")
    at_least: int = Field(1, ge=1, description="so many lines of one log must match")
    rank: Literal["any", "first", "other"] = "any"
    engine: str | None = Field(None, pattern=r"^(<|<=|>|>=|==) ?\d+(\.\d+)*$", description="versions of vLLM")
    info_too: bool = Field(False, description="true: a failure even on a line of level INFO or DEBUG")
    after_ready: bool = Field(False, description="true: a failure even where the server became ready afterwards")
    explains: list[str] = Field(default_factory=list, description="rules that only show what this one causes")
    cause: str = Field(min_length=10)
    causes: list[PossibleCause] = Field(
        default_factory=list,
        description="of several, the logs say which; else all are listed, or `cause` stands with `confidence`",
    )
    fix: str = Field(min_length=5)
    preflight: str | None = Field(None, description="command before the launch, and what it must say")
    checked_by: list[str] = Field(
        default_factory=list,
        description="what Overspan itself runs before a launch: preflight checks, plan, submission",
    )
    confidence: float | None = Field(None, gt=0, le=1)
    source: str = Field(min_length=3)
    cases: Cases
    category: str = ""

    @model_validator(mode="after")
    def _sign_is_no_error(self) -> LogRule:
        if self.stage == "sign" and self.severity == "error":
            raise ValueError("a sign (slow, not dead) has the severity warning or info")
        return self

    @property
    def looked_for(self) -> Iterator[tuple[str, list[str]]]:
        """All patterns that a scan counts, by kind."""
        yield from ((kind, getattr(self, kind)) for kind in PATTERN_FIELDS if kind != "forbid")
        for place, each in enumerate(self.causes):
            yield from ((f"{SEEN}{place}", each.seen_by), (f"{AGAINST}{place}", each.not_with))

    @property
    def speaks_quietly(self) -> bool:
        """Whether a line of level INFO can be this: signs and hangs are logged so."""
        return self.info_too or self.stage in {"consequence", "sign"}

    @property
    def trust(self) -> float:
        """The confidence of a plain match."""
        return self.confidence if self.confidence is not None else CONFIDENCE[self.stage]

    def finding(self, status: Status, **more: object) -> Finding:
        """A finding of this rule.

        Args:
            status: whether it failed.
            more: further fields of the finding.
        """
        known = {"rule": self.id, "title": self.title, "category": self.category, "severity": self.severity}
        return Finding.model_validate({**known, "status": status, **more})


class RuleFile(Frozen):
    """One category of rules."""

    category: str = Field(min_length=2)
    about: str = ""
    rules: list[LogRule] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _rules_know_their_category(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("rules"), list):
            return data
        category = data.get("category")
        known = [{**rule, "category": category} if isinstance(rule, dict) else rule for rule in data["rules"]]
        return data | {"rules": known}


def load_rules(folders: tuple[Path, ...] = ()) -> tuple[LogRule, ...]:
    """The built-in rules and those of further folders; a rule of a later folder replaces one of the same id.

    Raises:
        RecipeError: a file cannot be read or holds a wrong rule; names file, line and field.
    """
    return _load((BUILT_IN, *folders), stamps(folders))


def stamps(folders: tuple[Path, ...]) -> tuple[float, ...]:
    """When each folder's newest rule was written: what is kept in memory is used only while this stays."""
    return tuple(max(file.stat().st_mtime for file in _rule_files(folder)) for folder in folders)


def _rule_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RecipeError(f"{folder}: not a folder of rules", next="give a folder that holds *.yaml files")
    try:
        files = sorted(folder.glob("*.yaml"))
    except OSError as error:
        raise RecipeError(f"{folder}: {error.strerror}") from None
    if not files:
        raise RecipeError(f"{folder}: no *.yaml files", next="see docs/doctor.md for how a rule is written")
    return files


@lru_cache(maxsize=4)
def _load(folders: tuple[Path, ...], _stamps: tuple[float, ...]) -> tuple[LogRule, ...]:
    rules: dict[str, LogRule] = {}
    for folder in folders:
        seen: dict[str, Path] = {}
        for file in _rule_files(folder):
            for rule in _read_file(file):
                if rule.id in seen:
                    raise RecipeError(f"{file}: rule '{rule.id}' stands in {seen[rule.id]} too")
                seen[rule.id] = file
                rules[rule.id] = rule
    for rule in rules.values():
        for other in rule.explains:
            if other not in rules:
                raise RecipeError(
                    f"rule '{rule.id}' explains '{other}', which is not a rule{did_you_mean(other, rules)}"
                )
    return tuple(rules.values())


def _read_file(file: Path) -> list[LogRule]:
    text = read_text(file)
    if file.parent == BUILT_IN:
        with suppress(yaml.YAMLError, ValidationError, TypeError):
            return RuleFile.model_validate(plain(text), context=SHIPPED).rules
    data, places = read_yaml(text, str(file))  # slower, and says where
    return make(RuleFile, data, str(file), places).rules
