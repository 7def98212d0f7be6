"""The base of every document that Overspan reads or writes.

Modules that define documents do without `from __future__ import annotations`: pydantic would compile each annotation's
text once more, a tenth of the time of `overspan plan`.
"""

import re
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: it never changes once made, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked as a new document is.

        Raises:
            ValidationError: a field is unknown, or a value is not what it takes.
        """
        stated = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(stated | changes)


def text_like(pattern: str, words: str) -> AfterValidator:
    """Text of one form; the error states the form in words, not as a regular expression."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"expected {words}")
        return value

    return AfterValidator(check)


_ADDRESS: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%[A-Za-z0-9._-]+)?"

Address = Annotated[str, text_like(_ADDRESS, "a host name or an IP address")]
"""Where a host is, and nothing that a program could take for an option."""

ListenAddress = Annotated[str, text_like(_ADDRESS + r"|\{address:[A-Za-z0-9._-]+\}", "a host name or an IP address")]
"""Where an engine listens: an address, or under Slurm the placeholder that the job fills in."""

InterfaceName = Annotated[
    str, text_like(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}", "the name of one interface, as `ip link` has it")
]
"""Linux gives names of 15 characters at most (IFNAMSIZ)."""

ImageName = Annotated[str, text_like(r"[^-\s\0][^\0]*", "the name of a container image")]
"""Docker, or another runtime, says what else it wants of a name."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _settable(environment: dict[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of an environment variable (letters, digits and _)")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL byte, which no environment can carry")
    return environment


Environment = Annotated[dict[str, str], AfterValidator(_settable)]
"""Environment variables that a process can be given."""
