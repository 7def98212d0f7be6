"""Write a twin to disk. The engine's own Python does the work: Overspan's has no torch."""

from __future__ import annotations

import json
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from overspan.provision.children import follow
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.twin.shrink import Twin

FACTS: Final = "twin.json"
_FEWEST_DISTINCT: Final = 8
"""Of 48 tokens. A twin that says one thing again and again would agree with a broken engine."""
_SEEDS: Final = 4


class TwinFacts(Frozen):
    """What was written, and how far it is like the real model."""

    model: str
    architecture: str
    shrunk: dict[str, tuple[int, int]]
    notes: list[str]
    seed: int
    parameters: int = Field(ge=1)
    weight_bytes: int = Field(ge=1)
    distinct_tokens: int = Field(description="distinct tokens in the dullest of four outputs of 48")


def write(model: str, twin: Twin, out: Path, python: Path) -> TwinFacts:
    """Write the twin's checkpoint, tokenizer and facts into a new folder. It exists when it is whole.

    Args:
        model: the real model's name, for the facts.
        twin: what to write.
        out: the folder to make.
        python: an interpreter with transformers: an engine's.

    Raises:
        InputError: the folder holds something already.
        OverspanError: the engine's Python failed, or every seed gave a twin that repeats itself.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", next="name a folder that does not exist yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(_SEEDS):
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".twin-") as temporary:
            folder = Path(temporary) / "twin"
            order = {"config": twin.config, "extra": twin.extra, "seed": seed, "out": str(folder)}
            made = engine_side("build_twin.py", order, python, Path(temporary))
            if made["distinct_tokens"] < _FEWEST_DISTINCT:
                continue
            facts = TwinFacts(
                model=model,
                architecture=twin.architecture,
                shrunk=twin.shrunk,
                notes=twin.notes,
                seed=seed,
                **made,
            )
            (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
            folder.rename(out)
            return facts
    raise OverspanError(f"the twin of {model} repeats itself with every seed tried ({_SEEDS}): it would prove nothing")


def engine_side(script: str, order: dict[str, Any], python: Path, scratch: Path) -> Any:
    """Run one of our scripts by the engine's Python; gives the JSON document that its last line is, if any.

    Raises:
        OverspanError: it failed; quotes its last line.
    """
    lines: list[str] = []
    orders = scratch / f"{script}.json"
    orders.write_text(json.dumps(order), encoding="utf-8")
    with resources.as_file(resources.files("overspan.twin") / "engine_side" / script) as path:
        follow([str(python), str(path), str(orders)], lines.append)
    found = [line for line in lines if line.startswith("{")]
    return json.loads(found[-1]) if found else None
