"""A fleet on paper: a topology of the predictor's, repeated over many GPUs, under requests that come by themselves."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

from overspan.planner import disagg, inputs, rank
from overspan.planner.fleet import Load, Outcome, Unit, simulate
from overspan.planner.predict import predict
from overspan.planner.refuse import refusals
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo, parse_slo
from overspan.schema.topology import Role, Topology, parse_topology

MAX_SEQUENCES: Final = 1024  # vLLM's default max_num_seqs of the API server on large GPUs (vllm.engine.arg_utils)
_STEADY: Final = 1e9  # requests of each user: the burst of a start is not seen
_SEARCH_UNITS: Final = 8  # the highest rate is looked for on so many units, then shown on all
_SEARCH_STEPS: Final = 7
_FLIGHTS: Final = 4  # requests of a run, in units of those in flight at a time; half of them only fill the fleet
_FEWEST_REQUESTS: Final = 3_000
_MOST_REQUESTS: Final = 80_000  # beyond, a part of the units is followed
_MARGIN: Final = 0.98  # of the limits, while the highest rate is looked for: what is found then holds on all units


class Asked(Frozen):
    """A fleet and its load. `rate_per_s` None: the highest that keeps the limits for `share` of the requests."""

    name: str
    settings: tuple[str, ...] = ()
    gpu: str
    fleet: int
    topology: str | None = None
    isl: float = 1024
    osl: float = 1024
    rate_per_s: float | None = None
    slo: str | None = None
    share: float = 0.99
    price: float | None = None
    requests: int | None = None
    seed: int = 0


def scale(asked: Asked) -> dict[str, Any]:
    """Attainment, latencies, use and cost of a fleet.

    Raises:
        InputError: the question contradicts itself, or the limits cannot be kept at any load.
        PlanRefused: the topology cannot run on this kind of GPU.
    """
    recipe, model = inputs.resolve(asked.name, asked.settings)
    limits = parse_slo(asked.slo)
    if asked.rate_per_s is None and limits == Slo():
        raise InputError("give --rate, or --slo to look for the highest rate", next="for example --rate 100")
    topology = parse_topology(asked.topology) if asked.topology else _best(model, recipe, asked, limits)
    gpus = sum(role.ranks for role in topology.roles)
    units = asked.fleet // gpus
    if not units:
        raise InputError(f"{topology.label} needs {gpus} GPUs, the fleet has {asked.fleet}")
    rate = asked.rate_per_s or _highest(model, recipe, topology, asked, limits=limits, units=units)
    unit, notes = unit_of(model, recipe, topology, asked, rate / units)
    followed = units if asked.requests else min(units, max(1, _MOST_REQUESTS // _needed(unit, 1, rate / units, asked)))
    if followed < units:
        notes.append(f"{followed} of {units} equal units were followed: --requests for all of them")
    seen = _run(unit, followed, rate * followed / units, asked, limits)
    return _told(model, topology, asked, units=units, unit=unit, rate=rate, seen=seen, notes=notes)


def _best(model: ModelSpec, recipe: Recipe, asked: Asked, limits: Slo) -> Topology:
    """The layout of one host that gives most for each GPU within the limits, at 32 users a GPU."""
    machines = inputs.what_if(asked.gpu, 1, min(asked.fleet, inputs.gpus_per_host(asked.gpu)))
    users = 32 * sum(len(host.gpus) for host in machines.hosts) or 32
    ranking = rank.rank(model, recipe, machines, Demand(isl=asked.isl, osl=asked.osl, concurrency=users), slo=limits)
    _ = ranking.best
    best = max(ranking.ranked, key=lambda item: (item.meets, item.prediction.tokens_per_s_per_gpu))
    return Topology(roles=[Role(name="aggregated", layout=best.prediction.layout)])


def unit_of(model: ModelSpec, recipe: Recipe, topology: Topology, asked: Asked, rate: float) -> tuple[Unit, list[str]]:
    """One unit of a fleet as the predictor sees it, and what is not sure of it.

    Args:
        model: its sizes.
        recipe: engine and arguments.
        topology: the workers of one unit.
        asked: lengths and kind of GPU.
        rate: requests a second that come to one unit.

    Raises:
        PlanRefused: a role cannot run.
    """
    answering = topology.answering
    own = recipe.for_role(answering)
    machines = _machines(asked, answering.layout)
    _require(model, answering.layout, machines, own)
    demand = Demand(isl=asked.isl, osl=asked.osl, rounds=_STEADY)
    case = inputs.case_of(model, own, answering.layout, machines, demand)
    slots = int(min(inputs.capacity(case, own, machines), MAX_SEQUENCES) * answering.layout.dp)
    if slots < 1:
        raise InputError(f"{answering.layout.label}: the cache holds no request of {asked.isl + asked.osl:.0f} tokens")
    points = {users: predict(case._replace(demand=demand.with_(concurrency=users))) for users in _samples(slots)}
    apart = topology.disaggregated
    steps = {users: seen.tpot_ms - (seen.terms.get("prefill", 0.0) if apart else 0.0) for users, seen in points.items()}
    step_s = [value / 1e3 for value in _between(steps, slots)]
    held = _held(step_s, rate / answering.workers, asked.osl)
    usual = points[min(points, key=lambda users: abs(users - held))]
    prompt_ms, lanes = usual.ttft_terms["first_prefill"], answering.layout.dp
    after_ms = usual.ttft_terms["first_layer"] + usual.ttft_terms["first_steps"]
    if apart:
        first = topology.roles[0]
        machines = _machines(asked, first.layout)
        _require(model, first.layout, machines, recipe.for_role(first))
        side = disagg.side_of(model, recipe.for_role(first), machines, demand, first.layout)
        prompt_ms, lanes, after_ms = side.prompt_ms * first.layout.dp, first.workers * first.layout.dp, 0.0
    else:
        lanes *= answering.workers
    unit = Unit(
        prefill_workers=lanes,
        prompt_s=prompt_ms / 1e3,
        after_s=after_ms / 1e3,
        decode_workers=answering.workers,
        slots=slots,
        step_s=step_s,
        gpus=sum(role.ranks for role in topology.roles),
    )
    unsure = ["nothing disaggregated was measured behind this"] if apart else []
    return unit, [*usual.notes, *unsure]


def _machines(asked: Asked, layout: Layout) -> Inventory:
    each = inputs.gpus_per_host(asked.gpu)
    return inputs.what_if(asked.gpu, -(-layout.world_size // each), min(each, layout.world_size))


def _require(model: ModelSpec, layout: Layout, machines: Inventory, recipe: Recipe) -> None:
    if reasons := refusals(model, layout, machines, recipe):
        raise PlanRefused(f"{layout.label} cannot run on {machines.name}", reasons)


def _samples(slots: int) -> list[int]:
    """Numbers of requests to ask the predictor about: 1, 2, 3, 4, 6, 8, 12 ... and the last."""
    found = {1, slots}
    users = 2
    while users < slots:
        found |= {users, min(slots, users * 3 // 2)}
        users *= 2
    return sorted(found)


def _between(points: dict[int, float], slots: int) -> list[float]:
    """The value at each whole number from 1 to slots, on straight lines between those that are known."""
    known = sorted(points)
    values = [points[known[0]]]
    for low, high in itertools.pairwise(known):
        slope = (points[high] - points[low]) / (high - low)
        values += [points[low] + slope * (users - low) for users in range(low + 1, high + 1)]
    return values[:slots]


def _held(step_s: list[float], rate: float, osl: float) -> float:
    """Requests that one decode worker holds at a rate: Little's law with a step that depends on the answer."""
    held = 1.0
    for _ in range(100):
        step = step_s[min(max(1, round(held)), len(step_s)) - 1]
        held = (held + min(float(len(step_s)), rate * osl * step)) / 2
    return held


def _needed(unit: Unit, units: int, rate: float, asked: Asked) -> int:
    """Requests that it takes to fill a fleet and then to see it full."""
    held = _held(unit.step_s, rate / units / unit.decode_workers, asked.osl)
    waiting = rate * unit.prompt_s  # at least those who are at their prompts
    return math.ceil(_FLIGHTS * (held * unit.decode_workers * units + waiting))


def _run(unit: Unit, units: int, rate: float, asked: Asked, limits: Slo) -> Outcome:
    number = asked.requests or max(_FEWEST_REQUESTS, _needed(unit, units, rate, asked))
    load = Load(rate_per_s=rate, requests=number, output_tokens=asked.osl, spread=0.1, warm_up=0.5, seed=asked.seed)
    return simulate(unit, units, load, limits)


def _highest(model: ModelSpec, recipe: Recipe, topology: Topology, asked: Asked, *, limits: Slo, units: int) -> float:
    """The highest rate of the whole fleet at which the share of requests that keep the limits is what is asked for."""
    few = min(units, _SEARCH_UNITS)
    tight = limits.times(_MARGIN)
    idle, _ = unit_of(model, recipe, topology, asked, 0.0)
    decode = idle.decode_workers * idle.slots / (asked.osl * idle.step_s[-1])
    prefill = idle.prefill_workers / idle.prompt_s if idle.prompt_s else decode
    low, high = 0.0, min(decode, prefill)  # requests a second of one unit
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        unit, _ = unit_of(model, recipe, topology, asked, middle)
        seen = _run(unit, few, middle * few, asked, tight)
        low, high = (middle, high) if seen.attainment >= asked.share and not seen.saturated else (low, middle)
    if not low:
        quick = f"{idle.step_s[0] * 1e3:.1f} ms a token, {(idle.prompt_s + idle.after_s) * 1e3:.0f} ms to the first"
        raise InputError(
            f"{topology.label} keeps {limits} at no rate; nearly idle it gives {quick}",
            next="overspan plan --how-many --slo tells what could",
        )
    return low * units


def _told(
    model: ModelSpec,
    topology: Topology,
    asked: Asked,
    *,
    units: int,
    unit: Unit,
    rate: float,
    seen: Outcome,
    notes: list[str],
) -> dict[str, Any]:
    used = units * unit.gpus
    # In a steady state what comes is what is served.
    tokens = seen.output_tokens_per_s if seen.saturated else rate * asked.osl
    hours = asked.fleet / 3600 / tokens * 1e6  # GPU-hours for a million tokens, idle GPUs paid too
    cost = {"gpu_hours_per_million_output_tokens": hours}
    if asked.price is not None:
        cost["price_per_million_output_tokens"] = hours * asked.price
    return {
        "model": model.name,
        "gpu": asked.gpu,
        "topology": topology.label,
        "units": units,
        "gpus_used": used,
        "gpus_reserved": asked.fleet,
        "rate_per_s": rate,
        "slo": asked.slo,
        "output_tokens_per_s": tokens,
        "tokens_per_s_per_gpu": tokens / used,
        "tokens_per_s_per_gpu_reserved": tokens / asked.fleet,
        **seen.model_dump(exclude={"output_tokens_per_s"}),
        "slots": unit.slots,
        **cost,
        "notes": notes,
    }


def as_text(found: dict[str, Any]) -> str:
    """What `scale` found, for a person."""
    fleet = f"{found['gpus_reserved']:,} {found['gpu']}: {found['units']:,} units of {found['topology']}"
    lines = [
        f"{found['model']} on {fleet} ({found['gpus_used']:,} GPUs used), {found['rate_per_s']:.1f} requests a second",
        f"{'':8}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}",
    ]
    for name, key in (("TTFT ms", "ttft_ms"), ("TPOT ms", "tpot_ms"), ("E2E ms", "e2e_ms")):
        lines.append(f"{name:8}" + "".join(f"{value:>10,.1f}" for value in found[key].values()))
    kept = f"keep {found['slo']}" if found["slo"] else "keep their limits: there are none"
    lines += [
        f"{found['attainment']:.2%} of {found['requests']:,} requests {kept}",
        f"{found['output_tokens_per_s']:,.0f} tok/s, {found['tokens_per_s_per_gpu']:.0f} a GPU used, "
        f"{found['tokens_per_s_per_gpu_reserved']:.0f} a GPU reserved; a decode worker holds {found['held']:.1f} of "
        f"{found['slots']}, prefill is {found['prefill_busy']:.0%} busy",
        f"{found['gpu_hours_per_million_output_tokens']:.3f} GPU-hours for a million output tokens"
        + (
            f": {found['price_per_million_output_tokens']:.2f} at that price"
            if "price_per_million_output_tokens" in found
            else ""
        ),
    ]
    lines += ["saturated: requests come faster than they are served, so waits only grow"] if found["saturated"] else []
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])
