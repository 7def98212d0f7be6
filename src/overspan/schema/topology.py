"""Which workers serve a model together, in the field's notation: `TEP8`, or `1P2D DEP4->TEP8` for one prefill worker of
DEP4 and two decode workers of TEP8."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.layout import ALLOWED, Layout, parse_layout, read_notation

RoleName = Literal["aggregated", "prefill", "decode"]

_APART = re.compile(r"([0-9]+)p([0-9]+)d\s+(\S+?)\s*->\s*(\S+)", re.IGNORECASE)
_FORMS = f"TP1, TEP8, PP2 ({ALLOWED}), or xPyD: 1P2D DEP4->TEP8"


class Role(Frozen):
    """The workers of one role. `nodes` is what somebody reserved for them; None: what they need."""

    name: RoleName
    workers: int = Field(1, ge=0, le=1024)
    layout: Layout
    nodes: int | None = Field(None, ge=0)

    @property
    def ranks(self) -> int:
        """Ranks of all its workers, one GPU each."""
        return self.workers * self.layout.world_size


class Topology(Frozen):
    """The roles of one deployment: one `aggregated`, or `prefill` and `decode`."""

    roles: list[Role] = Field(min_length=1, max_length=2)

    @model_validator(mode="before")
    @classmethod
    def _notation(cls, value: Any) -> Any:
        return dict(read_notation(parse_topology, value)) if isinstance(value, str) else value

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode have workers of their own."""
        return len(self.roles) > 1

    @property
    def answering(self) -> Role:
        """The role that makes the tokens after the first: decode, or the only one."""
        return self.roles[-1]

    @property
    def label(self) -> str:
        """The notation; `parse_topology(topology.label)` gives the topology again, nodes left out."""
        layouts = "->".join(role.layout.label.upper() for role in self.roles)
        if not self.disaggregated:
            return layouts
        return f"{self.roles[0].workers}P{self.roles[1].workers}D {layouts}"

    @property
    def slug(self) -> str:
        """The label for file names and ids: `1p2d-dep4-tep8`."""
        return self.label.lower().replace(" ", "-").replace("->", "-")


def parse_topology(text: str) -> Topology:
    """Read the notation.

    Raises:
        InputError: it is none; names the forms.
    """
    apart = _APART.fullmatch(text.strip())
    try:
        if apart is None:
            return Topology(roles=[Role(name="aggregated", layout=parse_layout(text))])
        x, y, prefill, decode = apart.groups()
        if max(len(x), len(y)) > 4:
            raise InputError(f"{x}P{y}D are more workers than any machine holds")
        roles = [
            Role(name="prefill", workers=int(x), layout=parse_layout(prefill)),
            Role(name="decode", workers=int(y), layout=parse_layout(decode)),
        ]
    except InputError as error:
        raise InputError(f"topology '{text}': {error.what}", next=f"write it like {_FORMS}") from None
    return Topology(roles=roles)
