"""A sweep: one base recipe, scenarios, a ladder of topologies and their concurrencies, and what differs at each."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from overspan.schema.base import Frozen
from overspan.schema.recipe import ArgValue, EngineName, KnownAnswer
from overspan.schema.topology import RoleName, Topology

_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
_MOST_USERS = 1_000_000


class Scenario(Frozen):
    """Lengths of a request in tokens."""

    isl: int = Field(ge=1, description="input tokens")
    osl: int = Field(ge=1, description="output tokens")


class RoleChanges(Frozen):
    """What differs for the workers of one role; a null takes a value of the recipe away."""

    engine_args: dict[str, ArgValue] = Field(default_factory=dict)
    env: dict[str, str | int | float | None] = Field(default_factory=dict)


class Changes(RoleChanges):
    """What differs from the base recipe, for a whole sweep or for one entry."""

    variant: str | None = Field(None, description="a variant of the base recipe, applied first")
    engine: EngineName | None = None
    image: str | None = None
    known_answers: list[KnownAnswer] | None = None
    ready_timeout_s: float | None = Field(None, gt=0)
    roles: dict[RoleName, RoleChanges] = Field(default_factory=dict)


class Load(Frozen):
    """How each point is loaded. Source of the defaults: docs/sources.md#racks (the field's largest public sweep)."""

    requests_per_user: int = Field(10, ge=1)
    warmup_per_user: int = Field(2, ge=0)
    length_ratio: float = Field(1.0, gt=0, le=1, description="lengths are uniform from this share of isl and osl up")
    timeout_s: float = Field(600.0, gt=0, description="of one request")
    endpoint: Literal["chat", "completions"] = "chat"
    seed: int = 0


class LoadChanges(Frozen):
    """What differs from the sweep's load for one entry; a field that is not given stays."""

    requests_per_user: int | None = Field(None, ge=1)
    warmup_per_user: int | None = Field(None, ge=0)
    length_ratio: float | None = Field(None, gt=0, le=1)
    timeout_s: float | None = Field(None, gt=0)
    endpoint: Literal["chat", "completions"] | None = None
    seed: int | None = None


class Constraints(Frozen):
    """What every point must keep, beside what the machines and the engine impose."""

    max_nodes: int | None = Field(None, ge=1)
    max_gpus: int | None = Field(None, ge=1)
    failed_share: float = Field(0.0, ge=0, lt=1, description="of a point's requests that may fail")


class Range(Frozen):
    """Concurrencies from `start`, doubled until `end`, the end included."""

    start: int = Field(ge=1, le=_MOST_USERS)
    end: int = Field(ge=1, le=_MOST_USERS)

    def values(self) -> list[int]:
        """4 to 100: 4, 8, 16, 32, 64, 100."""
        found = [self.start]
        while found[-1] * 2 < self.end:
            found.append(found[-1] * 2)
        return found if self.start == self.end else [*found, self.end]

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"ends at {self.end}, below its start {self.start}")
        return self


class LadderEntry(Frozen):
    """One rung of the ladder: a topology and the concurrencies that it is measured at."""

    topology: Topology
    name: str = Field(
        "", pattern=r"^[a-z0-9][a-z0-9._-]*$|^$", description="needed where two entries have the same topology"
    )
    concurrency: list[int] | None = None
    concurrency_range: Range | None = None
    scenarios: list[str] | None = Field(None, min_length=1, description="all of the sweep's where not given")
    nodes: dict[RoleName, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="reserved nodes by role: checked, not needed"
    )
    overrides: Changes = Changes()
    load: LoadChanges = LoadChanges()

    @field_validator("concurrency")
    @classmethod
    def _whole_and_once(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not value:
            raise ValueError("holds no concurrency: this entry would have no point")
        wrong = [users for users in value or [] if not 1 <= users <= _MOST_USERS]
        if wrong:
            raise ValueError(f"{wrong[0]} is not a number of users (1 to {_MOST_USERS})")
        twice = [users for users, times in Counter(value).items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]} appears twice: a duplicate point")
        return value

    @model_validator(mode="after")
    def _list_or_range(self) -> Self:
        if (self.concurrency is None) == (self.concurrency_range is None):
            raise ValueError(
                f"{self.topology.label}: give a list (concurrency) or a range (concurrency_range: start, end), "
                + ("not both" if self.concurrency is not None else "one of them")
            )
        unknown = [role for role in self.nodes if role not in {held.name for held in self.topology.roles}]
        if unknown:
            raise ValueError(f"{self.topology.label} has no {unknown[0]} workers, so `nodes` cannot name them")
        return self

    @property
    def users(self) -> list[int]:
        """The concurrencies, rising as given."""
        return self.concurrency_range.values() if self.concurrency_range else list(self.concurrency or [])

    @property
    def slug(self) -> str:
        """`1p1d-dep4-tp4-marlin`."""
        return "-".join(part for part in (self.topology.slug, self.name) if part)


class Sweep(Frozen):
    """One YAML document: everything that differs from the base recipe stands here once."""

    name: str = Field(pattern=_NAME)
    description: str = ""
    source: str = ""
    base: str = Field(min_length=1, description="a recipe: a name that ships or a file, from this file's folder")
    inventory: str | None = Field(None, description="where it runs unless --on says otherwise")
    scenarios: dict[str, Scenario] = Field(min_length=1)
    load: Load = Load()
    context_margin: int | None = Field(None, ge=0, description="sets max_model_len to isl + osl + this")
    overrides: Changes = Changes()
    constraints: Constraints = Constraints()
    points: list[LadderEntry]

    @field_validator("points")
    @classmethod
    def _some(cls, value: list[LadderEntry]) -> list[LadderEntry]:
        if not value:
            raise ValueError("is empty: this sweep would have no point")
        return value

    @model_validator(mode="after")
    def _each_point_once(self) -> Self:
        seen: set[str] = set()
        for entry in self.points:
            chosen = self.scenarios if entry.scenarios is None else entry.scenarios
            unknown = [name for name in chosen if name not in self.scenarios]
            if unknown:
                known = ", ".join(self.scenarios)
                raise ValueError(f"{entry.topology.label}: unknown scenario '{unknown[0]}'; this sweep has {known}")
            for scenario in chosen:
                for users in entry.users:
                    point = f"{scenario}/{entry.slug}/c{users}"
                    if point in seen:
                        raise ValueError(f"duplicate point {point}: give one of the two entries a name")
                    seen.add(point)
        return self
