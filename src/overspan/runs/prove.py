"""`prove`: a twin of the model runs in each layout on the real engine, and must give the reference's tokens exactly.

Each layout is started as any run is (`up`), asked, and ended before the next one starts, so that one engine's memory
bounds the whole. What interrupts it ends what it started.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import Field, TypeAdapter

from overspan.catalog import models, recipes
from overspan.inventory import here
from overspan.provision import engines
from overspan.provision.locks import held
from overspan.runs import asking, ports
from overspan.runs.folder import RunFolder
from overspan.runs.planning import Wanted
from overspan.runs.status import status
from overspan.runs.stop import stop
from overspan.runs.up import up
from overspan.schema.base import Frozen
from overspan.schema.defaults import LOOPBACK
from overspan.schema.errors import OverspanError, PlanRefused, RunFailed
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout, parse_layout
from overspan.schema.places import cache_dir
from overspan.schema.plan import Endpoint
from overspan.schema.recipe import ArgValue, Recipe
from overspan.schema.yamlio import dump
from overspan.twin.compare import Answer, Case, Difference, cases, first_difference
from overspan.twin.shrink import VOCABULARY, shrink
from overspan.twin.write import FACTS, TwinFacts, engine_side, write

Say = Callable[[str], None]

ALL: Final = ("tp1", "tp2", "tep2", "pp2", "dp2", "dep2", "pp2dp2", "pp2tp2", "pp2tep2", "tp2dp2ep")
CHUNK: Final = 128
"""Tokens of one step: small, so that short prompts are chunked."""
TWIN_ARGS: Final[dict[str, ArgValue]] = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_batched_tokens": CHUNK,
    "max_num_seqs": 16,
    # 128 MiB hold 16 sequences of every twin; several ranks of one machine must not take a gigabyte each.
    "kv_cache_memory_bytes": 128 * 2**20,
    "generation_config": "vllm",
}
NEEDS_GPU: Final = (
    "attention_backend",
    "disable_custom_all_reduce",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "moe_backend",
    "quantization",
    "speculative_config",
)
"""Arguments of a recipe that nothing on a CPU honours, or that the twin has no part for."""


class Proof(Frozen):
    """What one layout did."""

    layout: str
    exact: bool
    first_difference: Difference | None = None
    error: str | None = None
    seconds: float
    memory_bytes: int | None = None
    tokens: int = 0
    not_proven_here: list[str] = Field(default_factory=list, description="engine arguments that need a GPU")


def prove(
    recipe: Recipe,
    layouts: Sequence[Layout],
    say: Say,
    env: dict[str, str] | None = None,
    on: Inventory | None = None,
) -> Iterator[Proof]:
    """Prove layouts one after another; each result comes as soon as it is there.

    Args:
        recipe: whose model and engine arguments.
        layouts: which.
        say: told what is being done.
        env: more environment for the engine.
        on: the machines, whose GPUs are left alone; None is this one.

    Raises:
        EngineMissing: there is no CPU engine on this machine.
        OverspanError: the twin or its reference cannot be made.
    """
    python = engines.find("cpu").python
    twin = _twin(recipe.model, python, say)
    asked = cases(VOCABULARY, CHUNK)
    expected = _reference(twin, asked, python, say)
    for layout in layouts:
        say(f"proving {layout.label}")
        machines = _without_gpus(on or here.this_machine(), layout)
        proof = _prove(_recipe_of(recipe, twin, layout, env or {}, machines), machines, asked, expected)
        yield proof.model_copy(update={"not_proven_here": sorted(set(recipe.engine_args) & set(NEEDS_GPU))})


def write_twin(model: str, out: Path) -> TwinFacts:
    """Write the twin of a model (or of a recipe's model) into a new folder. See `overspan.twin.write.write`."""
    name = recipes.find(model).model if model in recipes.names() else model
    return write(name, shrink(models.config_of(name)), out, engines.find("cpu").python)


def layouts_of(text: str | None, recipe: Recipe) -> list[Layout]:
    """The layouts that were asked for: the recipe's own, a list, or all ten.

    Raises:
        InputError: one does not parse.
    """
    if text is None:
        return [recipe.layout]
    names = ALL if text.strip() == "all" else text.split(",")
    return [parse_layout(name) for name in names]


def _twin(model: str, python: Path, say: Say) -> Path:
    """The cached twin of a model, made now if it is not there."""
    small = shrink(models.config_of(model))
    digest = hashlib.sha256(small.model_dump_json().encode()).hexdigest()[:12]
    folder = cache_dir() / "twins" / f"{small.config['model_type']}-{digest}"
    with held(folder.with_suffix(".lock"), doing=f"making the twin of {model}", say=say):
        if not (folder / FACTS).exists():
            say(f"making the twin of {model}: {small.architecture}")
            write(model, small, folder, python)
    return folder


def _reference(twin: Path, asked: Sequence[Case], python: Path, say: Say) -> list[Answer]:
    """What transformers answers; kept beside the twin under a digest of the questions."""
    orders = [{"prompt": case.prompt, "tokens": case.tokens} for case in asked]
    digest = hashlib.sha256(json.dumps(orders).encode()).hexdigest()[:12]
    file = twin / f"reference-{digest}.json"
    if not file.exists():
        say("asking the reference (transformers, fp32)")
        with tempfile.TemporaryDirectory(dir=twin) as scratch:
            part = Path(scratch, "answers.json")
            engine_side("reference.py", {"model": str(twin), "cases": orders, "out": str(part)}, python, Path(scratch))
            part.rename(file)
    return TypeAdapter(list[Answer]).validate_json(file.read_bytes())


def _recipe_of(recipe: Recipe, twin: Path, layout: Layout, env: dict[str, str], machines: Inventory) -> Recipe:
    """The recipe with the twin in the model's place, on CPUs."""
    args = {name: value for name, value in recipe.engine_args.items() if name not in NEEDS_GPU}
    changes = {
        "name": f"prove-{layout.label}-{recipe.name}"[:63].rstrip("-._"),
        "model": str(twin),
        "served_model_name": "twin",
        "engine_args": {**args, **TWIN_ARGS},
        "env": env,
        "layout": layout,
        "engine": recipe.engine,
        "image": recipe.image,
        # Another host's port is led to the same one here.
        "port": 0 if machines.hosts[0].ssh is None else ports.claim(Endpoint(host=LOOPBACK, port=0, model="")).port,
        "host": LOOPBACK,
        "known_answers": [],
    }
    return Recipe.model_validate(changes)


def _prove(recipe: Recipe, machines: Inventory, asked: Sequence[Case], expected: Sequence[Answer]) -> Proof:
    started = time.monotonic()
    label = recipe.layout.label

    def proof(**found: object) -> Proof:
        return Proof.model_validate({"layout": label, "seconds": round(time.monotonic() - started, 1), **found})

    try:
        with _running(recipe, machines) as run:
            answers = asking.ask(run.plan().endpoint, asked)
            memory = sum(each.memory_bytes or 0 for each in status(run).processes)
    except PlanRefused as error:
        return proof(exact=False, error=f"refused: {error}")
    except RunFailed as error:
        return proof(exact=False, error=" ".join([error.what, *(error.quote or "").splitlines()[-1:]]))
    except OverspanError as error:
        return proof(exact=False, error=str(error))
    difference = first_difference(asked, expected, answers)
    return proof(
        exact=difference is None,
        first_difference=difference,
        memory_bytes=memory,
        tokens=sum(len(answer) for answer in answers),
    )


@contextmanager
def _running(recipe: Recipe, machines: Inventory) -> Iterator[RunFolder]:
    """The recipe as a run of its own, ended at the end whatever happens. Its folder stays if it failed."""
    with tempfile.TemporaryDirectory(prefix="overspan-prove-") as scratch:
        files = {"recipe.yaml": recipe, "inventory.yaml": machines}
        for name, held_document in files.items():
            Path(scratch, name).write_text(dump(held_document), encoding="utf-8")
        wanted = Wanted(f"{scratch}/recipe.yaml", f"{scratch}/inventory.yaml")
        run = up(wanted, _nothing, _follow)
    try:
        yield run
    except BaseException:
        stop(run, grace_s=0.0)
        raise
    stop(run, grace_s=0.0)
    shutil.rmtree(run.path)


def _without_gpus(found: Inventory, layout: Layout) -> Inventory:
    """Machines without their GPUs, with a slot for each rank: a twin's ranks can share cores."""
    hosts = [host.model_copy(update={"gpus": [], "cores": max(host.cores, layout.world_size)}) for host in found.hosts]
    return found.model_copy(update={"device": "cpu", "hosts": hosts})


def _nothing(_: str) -> None:
    pass


def _follow(_: RunFolder, events: Iterator[object]) -> None:
    for _event in events:
        pass
