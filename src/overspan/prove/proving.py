"""`prove`: a twin of the model runs in each layout on the real engine, and must give the reference's tokens exactly.

Each layout is started as any run is (`up`), asked, and ended. While one is asked the next one loads, where memory
allows two. What interrupts it ends what it started.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import psutil
from pydantic import Field, TypeAdapter

from overspan.catalog import models, recipes
from overspan.engines import registry
from overspan.inventory import here
from overspan.prove import cases
from overspan.prove.scratch import PeakMemory, launched, verified, without_gpus
from overspan.prove.twin import speculation
from overspan.prove.twin.shrink import VOCABULARY, Format, shrink
from overspan.prove.twin.write import FACTS, TwinFacts, digest, engine_side, write
from overspan.provision import engines, weights
from overspan.runs import ports
from overspan.schema.base import Frozen
from overspan.schema.defaults import LOOPBACK
from overspan.schema.errors import InputError, OverspanError, PlanRefused, RunFailed
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout, parse_layout
from overspan.schema.places import twins_dir
from overspan.schema.plan import Endpoint
from overspan.schema.recipe import ArgValue, Recipe
from overspan.schema.units import gib
from overspan.store.files import usual_modes
from overspan.store.locks import Say, held
from overspan.store.run_folder import RunFolder

Known = tuple[Path, list[cases.ProofCase], list[cases.ReferenceAnswer]]
"""A twin, what is asked of it, and what the reference answers."""

ALL: Final = ("tp1", "tp2", "tep2", "pp2", "dp2", "dep2", "pp2dp2", "pp2tp2", "pp2tep2", "tp2dp2ep")
CHUNK: Final = 128
"""Tokens of one step: small, so that short prompts are chunked."""
BLOCK: Final = 32
"""Tokens of a block of the cache: the CPU backend's smallest (vLLM 0.32, cpu_attn.py)."""
TWIN_ARGS: Final[dict[str, ArgValue]] = {
    "dtype": "float32",
    "max_model_len": 512,
    "max_num_batched_tokens": CHUNK,
    "max_num_seqs": 16,
    # Several ranks of one machine must not take the default of a gigabyte each.
    "kv_cache_memory_bytes": 128 * 2**20,
    "generation_config": "vllm",
}
ENGINE_BYTES: Final = 600 * 2**20
RANK_BYTES: Final = 650 * 2**20
"""Rounded up from peaks of MiniMax-M2's twin: tp1 took 1.07 GiB, pp2dp2 with its four ranks 2.81 (2026-11-22)."""
NEEDS_GPU: Final = (
    "attention_backend",
    "disable_custom_all_reduce",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "moe_backend",
    "quantization",
)
"""Arguments of a recipe that nothing on a CPU honours."""
MLA_BLOCK: Final = 16
"""The only size of a block that the CPU's kernel for latent attention has (vLLM 0.32, cpu_mla.py)."""


class Proof(Frozen):
    """What one layout did."""

    layout: str
    exact: bool
    first_difference: cases.TokenMismatch | None = None
    error: str | None = None
    seconds: float = Field(description="from its launch to its end; the next one may load meanwhile")
    start_s: float | None = Field(None, description="of `seconds`, until the engine answered")
    memory_bytes: int | None = Field(None, description="peak of all its processes, what they share counted once")
    tokens: int = 0
    preemptions: int = Field(0, description="requests that the engine put off and began anew")
    cached_tokens: int = Field(0, description="prompt tokens that it took from its prefix cache")
    drafted: int = Field(0, description="tokens that speculative decoding guessed")
    accepted: int = Field(0, description="of `drafted`, those that were right")
    not_proven_here: list[str] = Field(
        default_factory=list, description="arguments without effect here: for want of a GPU, or with the reason"
    )


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
        InputError: a layout needs more memory than is free; nothing was started.
        EngineMissing: there is no CPU engine on this machine.
        OverspanError: the twin or its reference cannot be made.
    """
    fit = _fit(layouts) if on is None else 1
    # The ports of Ray and of several hosts are fixed: there a layout must end before the next one starts.
    ahead = registry.find(recipe.engine).several_at_once and fit > 1
    known = known_tokens(recipe.model, say, max(layout.pp for layout in layouts))
    machines = on or here.this_machine()
    with ExitStack() as started:
        trials = []
        for layout in layouts:
            steps = _prove(recipe, layout, known, env or {}, without_gpus(machines, layout))
            trials.append(started.enter_context(closing(_Trial(steps))))
        for layout, trial, following in zip_longest(layouts, trials, trials[1:]):
            say(f"proving {layout.label}")
            trial.reach("answering")
            if ahead and following:
                following.reach("launched")
            yield trial.end()


def _fit(layouts: Sequence[Layout]) -> int:
    """How many of them may be up at once, without driving this machine out of memory.

    Raises:
        InputError: not even the largest.
    """
    free = psutil.virtual_memory().available
    needed = {layout.label: ENGINE_BYTES + layout.world_size * RANK_BYTES for layout in layouts}
    worst = max(needed, key=lambda label: needed[label])
    if needed[worst] > free:
        fitting = [label for label, size in needed.items() if size <= free]
        raise InputError(
            f"not enough memory: proving {worst} takes about {gib(needed[worst])}, and {gib(free)} are free",
            next=f"--layouts {','.join(fitting)}" if fitting else "end something that takes memory (overspan list)",
        )
    return free // needed[worst]


def known_tokens(model: str, say: Say, stages: int = 1) -> Known:
    """A model's twin for pipelines of so many stages, what is asked of it, and the reference's answers; made where they
    are not in the cache.

    Raises:
        EngineMissing: there is no CPU engine on this machine.
        OverspanError: the twin or its reference cannot be made.
    """
    python = engines.find("cpu").python
    twin = twin_of(model, say, stages)
    asked = cases.all_cases(VOCABULARY, CHUNK)
    return twin, asked, _reference(twin, asked, python, say)


def write_twin(model: str, out: Path, weights: Literal["real"] | Format = "real") -> TwinFacts:
    """Write the twin of a model (or of a recipe's model) into a new folder. See `overspan.prove.twin.write.write`."""
    name = recipes.find(model).model if model in recipes.names() else model
    _require_sound(name)
    return write(name, shrink(models.config_of(name), weights), out, engines.find("cpu").python)


def layouts_of(text: str | None, recipe: Recipe) -> list[Layout]:
    """The layouts that were asked for: the recipe's own, a list, or all ten.

    Raises:
        InputError: one does not parse.
    """
    if text is None:
        return [recipe.layout]
    names = ALL if text.strip() == "all" else text.split(",")
    return list(dict.fromkeys(parse_layout(name) for name in names))


def twin_of(model: str, say: Say, stages: int = 1) -> Path:
    """The cached twin of a model for pipelines of so many stages, made now if it is not there."""
    _require_sound(model)
    small = shrink(models.config_of(model), stages=stages)
    folder = twins_dir() / f"{small.config['model_type']}-{digest(small)}"
    with held(folder.with_suffix(".lock"), doing=f"making the twin of {model}", say=say):
        if not (folder / FACTS).exists():
            say(f"making the twin of {model}: {small.architecture}")
            write(model, small, folder, engines.find("cpu").python)
            usual_modes(folder)
        with suppress(PermissionError):  # another account's
            os.utime(folder)  # used now
    return folder


def _require_sound(model: str) -> None:
    """A folder of configuration alone will do for a twin; one with weights must be a model that an engine would load.

    Raises:
        ModelUnavailable: its weights or its tokenizer are not; names the file.
    """
    folder = Path(model).expanduser()
    if any(folder.glob("*.safetensors")):
        weights.check_folder(folder)
        weights.require_some_tokenizer(folder)


def _reference(twin: Path, asked: Sequence[cases.ProofCase], python: Path, say: Say) -> list[cases.ReferenceAnswer]:
    """What transformers answers; kept beside the twin under a digest of the questions."""
    orders = [{"prompt": case.prompt, "tokens": case.tokens} for case in asked]
    asked_for = hashlib.sha256(json.dumps(orders).encode()).hexdigest()[:12]
    file = twin / f"reference-{asked_for}.json"
    if not file.exists():
        say("asking the reference (transformers, fp32)")
        with tempfile.TemporaryDirectory(dir=twin) as scratch:
            part = Path(scratch, "answers.json")
            engine_side("reference.py", {"model": str(twin), "cases": orders, "out": str(part)}, python, Path(scratch))
            part.rename(file)
    return TypeAdapter(list[cases.ReferenceAnswer]).validate_json(file.read_bytes())


def _recipe_of(
    recipe: Recipe,
    twin: Path,
    layout: Layout,
    env: dict[str, str],
    machines: Inventory,
    *,
    drafts: dict[str, Any] | None,
) -> Recipe:
    """The recipe with the twin in the model's place, on CPUs."""
    left_out = (*NEEDS_GPU, speculation.NAME)
    # The cache is so small that the last cases are preempted in every layout. It is stated in blocks: in bytes it would
    # hold more tokens where ranks share them. The engine keeps one block free.
    block = MLA_BLOCK if models.config_of(str(twin)).get("kv_lora_rank") else BLOCK
    args = {name: value for name, value in recipe.engine_args.items() if name not in left_out} | TWIN_ARGS
    args |= {"block_size": block, "num_gpu_blocks_override": cases.CACHE_TOKENS // block}
    if drafts:
        args[speculation.NAME] = drafts
    return Recipe(
        name=f"prove-{layout.label}-{recipe.name}"[:63].rstrip("-._"),
        model=str(twin),
        served_model_name="twin",
        engine_args=args,
        env=env,
        layout=layout,
        engine=recipe.engine,
        image=recipe.image,
        # A port of another host is forwarded to the port of the same number here, which must be free.
        port=0 if machines.hosts[0].ssh is None else ports.claim(Endpoint(host=LOOPBACK, port=0, model="")).port,
        host=LOOPBACK,
        known_answers=[],
    )


_Step = Literal["launched", "answering"]


class _Trial:
    """One layout's way to its proof, which may come early: something failed."""

    def __init__(self, steps: Generator[_Step, None, Proof]) -> None:
        self._steps = steps
        self._at: _Step | Proof | None = None

    def reach(self, step: _Step) -> None:
        """Go on until that step is done, or the way has ended."""
        while not isinstance(self._at, Proof) and self._at not in {step, "answering"}:
            self._go_on()

    def end(self) -> Proof:
        """Go on to the proof."""
        while not isinstance(self._at, Proof):
            self._go_on()
        return self._at

    def close(self) -> None:
        """End what was started."""
        self._steps.close()

    def _go_on(self) -> None:
        try:
            self._at = next(self._steps)
        except StopIteration as end:
            self._at = end.value


def _prove(
    recipe: Recipe, layout: Layout, known: Known, env: dict[str, str], machines: Inventory
) -> Generator[_Step, None, Proof]:
    started = time.monotonic()
    twin, asked, expected = known
    facts = TwinFacts.model_validate_json((twin / FACTS).read_bytes())
    drafts = speculation.of(recipe.engine_args.get(speculation.NAME), recipe.model, facts.mtp_modules, layout.pp)
    left_out = [*sorted(set(recipe.engine_args) & set(NEEDS_GPU)), *drafts.left_out]
    small = _recipe_of(recipe, twin, layout, env, machines, drafts=drafts.config)

    def proof(**found: object) -> Proof:
        seconds = round(time.monotonic() - started, 1)
        return Proof.model_validate({"layout": layout.label, "seconds": seconds, "not_proven_here": left_out} | found)

    try:
        with launched(small, machines) as run:
            yield "launched"
            verified(run)
            yield "answering"
            with PeakMemory(run) as peak:
                answered = cases.ask(run.plan().endpoint, asked, registry.find(recipe.engine).metrics)
            start_s = _start_s(run)
    except PlanRefused as error:
        return proof(exact=False, error=f"refused: {error}")
    except InputError:  # the same for every layout: the twin's folder, a port, the engine
        raise
    except RunFailed as error:
        return proof(exact=False, error=" ".join([error.what, *(error.quote or "").splitlines()[-1:]]))
    except OverspanError as error:
        return proof(exact=False, error=str(error))
    difference = cases.first_difference(asked, expected, answered.tokens)
    missed = _missed(small, answered)
    idle = speculation.not_drafted(answered.drafted, answered.accepted)
    return proof(
        exact=difference is None and missed is None,
        first_difference=difference,
        error=missed,
        start_s=start_s,
        memory_bytes=peak.bytes,
        tokens=sum(len(answer) for answer in answered.tokens),
        **answered.model_dump(exclude={"tokens"}),
        not_proven_here=[*left_out, *([idle] if idle and speculation.NAME in small.engine_args else [])],
    )


def _start_s(run: RunFolder) -> float:
    """From the plan to the first right answer, whoever was waited for then."""
    events = run.events()
    answered = next(event.at for event in events if event.settles)
    return round((answered - events[0].at).total_seconds(), 1)


def _missed(recipe: Recipe, answered: cases.LayoutAnswers) -> str | None:
    """What a case was for and did not come about: it would prove nothing, however exact."""
    if not answered.preemptions:
        return "no request was preempted, so that preemption is not proven"
    if not answered.cached_tokens and recipe.engine_args.get("enable_prefix_caching") is not False:
        return "no token came from the prefix cache, so that it is not proven"
    return None
