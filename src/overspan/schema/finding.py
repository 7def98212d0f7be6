"""What a check says: preflight, verify and doctor all return these."""

from typing import Literal

from pydantic import Field

from overspan.schema.base import Frozen

Status = Literal["passed", "failed", "not_evaluated"]


class Evidence(Frozen):
    """Where a finding was read: a line of a file, or the output of a command."""

    text: str
    file: str | None = None
    line: int | None = None
    host: str | None = None
    command: list[str] | None = None
    process: str | None = None
    rank: int | None = None


class Finding(Frozen):
    """One rule's verdict. A rule that could not be checked is `not_evaluated` and says why in `cause`."""

    rule: str
    status: Status
    evidence: Evidence | None = None
    cause: str | None = None
    fix: str | None = None
    severity: Literal["error", "warning", "info"] = "error"
    confidence: float | None = None
    title: str | None = None
    category: str | None = None
    role: Literal["root", "consequence", "sign"] | None = None
    more: list[Evidence] = Field(default_factory=list, description="the same on other ranks, or side by side")
    source: str | None = None

    @property
    def matters(self) -> bool:
        """Whether it is to be shown: it failed, or something was seen that nothing could judge."""
        return self.status == "failed" or (self.status == "not_evaluated" and self.evidence is not None)

    @property
    def is_error(self) -> bool:
        """Whether it failed as an error: a launch would fail, or numbers do not count. A warning is none."""
        return self.status == "failed" and self.severity == "error"
