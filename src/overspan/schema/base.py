"""The base of every document that Overspan reads or writes."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: it never changes once made, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
