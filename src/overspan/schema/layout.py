"""How a model is split: tensor, pipeline, data and expert parallelism, and the small notation for it.

`tp2` tensor parallel. `tep2` TP with experts split over the same ranks. `dp2` replicas. `dep2` data-parallel
attention with experts split over the ranks. `pp2` pipeline. Joined: `pp2tp2`, `pp2tep2`, `pp2dp2`, and
`tp2dp2ep`: two data-parallel groups of TP2, experts over all four.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError

_TERM = re.compile(r"(tep|dep|tp|pp|dp)([1-9][0-9]{0,18})|(ep)")
Parsed = TypeVar("Parsed")
ALLOWED = "tp2, tep2, dp2, dep2, pp2, pp2tp2, pp2tep2, pp2dp2, tp2dp2ep"


class Layout(Frozen):
    """Degrees of parallelism. `ep` is 1 (experts split as every other weight) or tp*dp (whole experts, spread)."""

    tp: int = Field(1, ge=1, le=1024, description="tensor-parallel ranks")
    pp: int = Field(1, ge=1, le=1024, description="pipeline stages")
    dp: int = Field(1, ge=1, le=1024, description="data-parallel groups")
    ep: int = Field(1, ge=1, le=4096, description="ranks that whole experts are spread over: 1, or tp*dp")

    @model_validator(mode="before")
    @classmethod
    def _notation(cls, value: Any) -> Any:
        return dict(read_notation(parse_layout, value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ep_covers_tp_and_dp(self) -> Self:
        if self.ep not in (1, self.tp * self.dp):
            raise ValueError(f"ep must be 1 or tp*dp = {self.tp * self.dp}, not {self.ep}")
        return self

    @property
    def world_size(self) -> int:
        """Ranks in all, one GPU each."""
        return self.tp * self.pp * self.dp

    @property
    def expert_parallel(self) -> bool:
        """Whether whole experts are spread over ranks."""
        return self.ep > 1

    @property
    def label(self) -> str:
        """The layout in the small notation; `parse(layout.label) == layout`."""
        stages = f"pp{self.pp}" if self.pp > 1 else ""
        if self.dp == 1:
            return stages + (f"tep{self.tp}" if self.ep > 1 else f"tp{self.tp}" if self.tp > 1 or not stages else "")
        if self.tp == 1:
            return stages + (f"dep{self.dp}" if self.ep > 1 else f"dp{self.dp}")
        return f"{stages}tp{self.tp}dp{self.dp}" + ("ep" if self.ep > 1 else "")


def read_notation(parse: Callable[[str], Parsed], text: str) -> Parsed:
    """What a notation says, within a document: its error as a ValueError is told with the file and line."""
    try:
        return parse(text)
    except InputError as error:
        raise ValueError(f"{error.what}; {error.next}") from None


def parse_layout(text: str) -> Layout:
    """Read the small notation, e.g. `pp2dp2`.

    Raises:
        InputError: the text is not in the notation, or names a degree twice.
    """
    degrees: dict[str, int] = {}
    expert_parallel = False
    position = 0
    folded = text.strip().lower()
    while position < len(folded):
        term = _TERM.match(folded, position)
        if term is None:
            raise InputError(
                f"layout '{text}' does not parse at '{folded[position:]}'", next=f"write it like {ALLOWED}"
            )
        position = term.end()
        name = term.group(1) or "ep"
        if name == "ep":
            expert_parallel = True
            continue
        axis = {"tep": "tp", "dep": "dp"}.get(name, name)
        if axis in degrees:
            raise InputError(f"layout '{text}' names {axis} twice", next=f"write it like {ALLOWED}")
        degrees[axis] = int(term.group(2))
        expert_parallel = expert_parallel or name in ("tep", "dep")
    if not degrees:
        raise InputError(f"layout '{text}' names no degree", next=f"write it like {ALLOWED}")
    ep = degrees.get("tp", 1) * degrees.get("dp", 1) if expert_parallel else 1
    return _made({**degrees, "ep": ep}, f"layout '{text[:40]}': ")


def one_layout(notation: str | None, degrees: Mapping[str, int | None]) -> Layout | None:
    """The layout that is asked for, in the notation or in numbers; None when neither is given.

    Raises:
        InputError: both are given, or the numbers contradict each other.
    """
    given = {name: degree for name, degree in degrees.items() if degree is not None}
    if notation is not None:
        if given:
            raise InputError("a layout is given twice: in the notation and in numbers", next="leave one of them out")
        return parse_layout(notation)
    if not given:
        return None
    return _made(given)


def _made(degrees: Mapping[str, int], where: str = "") -> Layout:
    try:
        return Layout(**degrees)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = "".join(f"{part}: " for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}{field}{said}", next=f"layouts are {ALLOWED}") from None
