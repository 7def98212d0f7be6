"""The ledger of a folder of sweeps: what changed, which points it affects, why. Entries are only ever added."""

from datetime import date

from pydantic import Field

from overspan.schema.base import Frozen


class LedgerEntry(Frozen):
    """One change. `adds_only` promises that no point or image that was there before is altered."""

    date: date
    what: str = Field(min_length=1)
    why: str = Field(min_length=1)
    points: list[str] = Field(min_length=1, description="patterns of point ids: SWEEP/SCENARIO/TOPOLOGY/cUSERS")
    link: str = Field(min_length=1)
    adds_only: bool = False


class Ledger(Frozen):
    """ledger.yaml."""

    entries: list[LedgerEntry] = Field(default_factory=list)
