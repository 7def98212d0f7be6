"""What architectures need in their config.json beside sizes: for twins, and for weights that are drawn."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from overspan.catalog import files
from overspan.schema.yamlio import plain

MTP_FIELD: Final = "num_nextn_predict_layers"


class Family(NamedTuple):
    """What differs between architectures; families.yaml says what each field means."""

    model_type: str
    experts: str | None = None
    widths: Sequence[str] = ("intermediate_size",)
    kept: Sequence[str] = ()
    defaults: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    few: dict[str, int] = {}  # noqa: RUF012 - nobody changes it
    mla: bool = False
    mtp: str | None = None
    whole_heads: bool = False


FAMILIES: Final = {name: Family(**data) for name, data in plain(files.text("families.yaml")).items()}
