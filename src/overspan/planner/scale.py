"""A fleet on paper: a topology of the predictor's, repeated over many GPUs, under requests that come by themselves."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final, NamedTuple

from overspan.catalog import hardware
from overspan.planner import disagg, inputs, rank
from overspan.planner.fleet import Arrivals, Outcome, Unit, simulate
from overspan.planner.placement import aggregated
from overspan.planner.predict import predict
from overspan.planner.refuse import refusals
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo, parse_slo
from overspan.schema.topology import Topology, parse_topology
from overspan.schema.units import count
from overspan.schema.workload import Demand

MAX_SEQUENCES: Final = 1024  # vLLM's default max_num_seqs of the API server on large GPUs (vllm.engine.arg_utils)
_STEADY: Final = 1e9  # requests of each user: the burst of a start is not seen
_SEARCH_UNITS: Final = 8  # the highest rate is looked for on so many units, then shown on all
_SEARCH_STEPS: Final = 7
_FLIGHTS: Final = 4  # requests of a run, in units of those in flight at a time; half of them only fill the fleet
_FEWEST_REQUESTS: Final = 3_000
_MOST_REQUESTS: Final = 80_000  # beyond, a part of the units is followed
_MARGIN: Final = 0.98  # of the limits, while the highest rate is looked for: what is found then holds on all units
_GPU_HOURS: Final = "gpu_hours_per_million_output_tokens"


class FleetQuestion(NamedTuple):
    """A fleet and its load. `rate_per_s` None: the highest that keeps the limits for `share` of the requests."""

    name: str
    gpu: str
    fleet: int
    settings: tuple[str, ...] = ()
    topology: str | None = None
    isl: float = 1024
    osl: float = 1024
    rate_per_s: float | None = None
    slo: str | None = None
    share: float = 0.99
    price: float | None = None
    requests: int | None = None
    seed: int = 0


class FleetAnswer(NamedTuple):
    """What a fleet gives: `seen` of the requests that were followed, `rate_per_s` over all its units."""

    asked: FleetQuestion
    model: str
    topology: str
    units: int
    unit: Unit
    rate_per_s: float
    seen: Outcome
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The answer as `--json` prints it."""
        used, fleet = self.units * self.unit.gpus, self.asked.fleet
        # In a steady state what comes is what is served.
        tokens = self.seen.output_tokens_per_s if self.seen.saturated else self.rate_per_s * self.asked.osl
        hours = fleet / 3600 / tokens * 1e6  # idle GPUs are paid too
        price = self.asked.price
        return {
            "model": self.model,
            "gpu": self.asked.gpu,
            "topology": self.topology,
            "units": self.units,
            "gpus_used": used,
            "gpus_reserved": fleet,
            "rate_per_s": self.rate_per_s,
            "slo": self.asked.slo,
            "output_tokens_per_s": tokens,
            "tokens_per_s_per_gpu": tokens / used,
            "tokens_per_s_per_gpu_reserved": tokens / fleet,
            **self.seen.model_dump(exclude={"output_tokens_per_s"}),
            "slots": self.unit.slots,
            _GPU_HOURS: hours,
            **({} if price is None else {"price_per_million_output_tokens": hours * price}),
            "notes": self.notes,
        }

    def as_text(self) -> str:
        """The answer for a person."""
        found, seen = self.as_json(), self.seen
        fleet = f"{self.asked.fleet:,} {self.asked.gpu}: {count(self.units, 'unit')} of {self.topology}"
        lines = [
            f"{self.model} on {fleet} ({found['gpus_used']:,} GPUs used), {self.rate_per_s:.1f} requests a second",
            f"{'':8}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}",
        ]
        for name, times in (("TTFT ms", seen.ttft_ms), ("TPOT ms", seen.tpot_ms), ("E2E ms", seen.e2e_ms)):
            lines.append(f"{name:8}" + "".join(f"{value:>10,.1f}" for value in times.values()))
        kept = f"keep {self.asked.slo}" if self.asked.slo else "keep their limits: there are none"
        tokens, each = found["output_tokens_per_s"], found["tokens_per_s_per_gpu"]
        reserved = found["tokens_per_s_per_gpu_reserved"]
        price = found.get("price_per_million_output_tokens")
        lines += [
            f"{seen.attainment:.2%} of {count(seen.requests, 'request')} {kept}",
            f"{tokens:,.0f} tok/s, {each:.0f} a GPU used, {reserved:.0f} a GPU reserved; a decode worker "
            f"holds {seen.held:.1f} of {self.unit.slots}, prefill is {seen.prefill_busy:.0%} busy",
            f"{found[_GPU_HOURS]:.3f} GPU-hours for a million output tokens"
            + ("" if price is None else f": {price:.2f} at that price"),
        ]
        lines += ["saturated: requests come faster than they are served, so waits only grow"] if seen.saturated else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def scale(asked: FleetQuestion) -> FleetAnswer:
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
    fleet = _EqualUnits(model, recipe, topology, asked)
    rate = asked.rate_per_s or fleet.highest_rate(limits, min(units, _SEARCH_UNITS)) * units
    unit, notes = fleet.unit(rate / units)
    followed = units if asked.requests else min(units, max(1, _MOST_REQUESTS // fleet.needed(unit, 1, rate / units)))
    if followed < units:
        notes.append(f"{followed} of {units} equal units were followed: --requests for all of them")
    seen = fleet.run(unit, followed, rate * followed / units, limits)
    return FleetAnswer(asked, model.name, topology.label, units, unit, rate, seen, notes)


def _best(model: ModelSpec, recipe: Recipe, asked: FleetQuestion, limits: Slo) -> Topology:
    """The layout of one host that gives most for each GPU within the limits, at 32 users a GPU."""
    machines = inputs.what_if(asked.gpu, 1, min(asked.fleet, hardware.find(asked.gpu).gpus_per_host))
    users = 32 * sum(len(host.gpus) for host in machines.hosts) or 32
    ranking = rank.rank(model, recipe, machines, Demand(isl=asked.isl, osl=asked.osl, concurrency=users), slo=limits)
    _ = ranking.best
    best = max(ranking.ranked, key=lambda item: (item.meets, item.prediction.tokens_per_s_per_gpu))
    return aggregated(best.prediction.layout)


class _EqualUnits(NamedTuple):
    """A fleet of equal units: what is asked, of which model, in which topology."""

    model: ModelSpec
    recipe: Recipe
    topology: Topology
    asked: FleetQuestion

    def unit(self, rate: float) -> tuple[Unit, list[str]]:
        """One unit as the predictor sees it, and what is not sure of it.

        Args:
            rate: requests a second that come to it.

        Raises:
            PlanRefused: a role cannot run.
        """
        answering, asked = self.topology.answering, self.asked
        own, layout = self.recipe.for_role(answering), answering.layout
        machines = self._machines(layout, own)
        demand = Demand(isl=asked.isl, osl=asked.osl, rounds=_STEADY)
        case = inputs.case_of(self.model, own, layout, machines, demand)
        slots = int(min(inputs.capacity(case, own, machines), MAX_SEQUENCES) * layout.dp)
        if slots < 1:
            raise InputError(f"{layout.label}: the cache holds no request of {asked.isl + asked.osl:.0f} tokens")
        points = {n: predict(case._replace(demand=demand.with_(concurrency=n))) for n in _samples(slots)}
        apart = self.topology.disaggregated
        steps = {n: seen.tpot_ms - (seen.terms.get("prefill", 0.0) if apart else 0.0) for n, seen in points.items()}
        step_s = [value / 1e3 for value in _between(steps, slots)]
        held = _held(step_s, rate / answering.workers, asked.osl)
        usual = points[min(points, key=lambda users: abs(users - held))]
        if apart:
            first = self.topology.roles[0]
            own = self.recipe.for_role(first)
            side = disagg.side_of(self.model, own, self._machines(first.layout, own), demand, first.layout)
            prompt_ms, lanes, after_ms = side.prompt_ms * first.layout.dp, first.workers * first.layout.dp, 0.0
        else:
            prompt_ms, lanes = usual.ttft_terms["first_prefill"], layout.dp * answering.workers
            after_ms = usual.ttft_terms["first_layer"] + usual.ttft_terms["first_steps"]
        unit = Unit(
            prefill_workers=lanes,
            prompt_s=prompt_ms / 1e3,
            after_s=after_ms / 1e3,
            decode_workers=answering.workers,
            slots=slots,
            step_s=step_s,
            gpus=sum(role.ranks for role in self.topology.roles),
        )
        return unit, [*usual.notes, *(["nothing disaggregated was measured behind this"] if apart else [])]

    def _machines(self, layout: Layout, recipe: Recipe) -> Inventory:
        """Machines for one worker, which it can run on."""
        each = hardware.find(self.asked.gpu).gpus_per_host
        machines = inputs.what_if(self.asked.gpu, -(-layout.world_size // each), min(each, layout.world_size))
        if reasons := refusals(self.model, layout, machines, recipe):
            raise PlanRefused(f"{layout.label} cannot run on {machines.name}", reasons)
        return machines

    def needed(self, unit: Unit, units: int, rate: float) -> int:
        """Requests that it takes to fill a fleet and then to see it full."""
        held = _held(unit.step_s, rate / units / unit.decode_workers, self.asked.osl)
        waiting = rate * unit.prompt_s  # at least those who are at their prompts
        return math.ceil(_FLIGHTS * (held * unit.decode_workers * units + waiting))

    def run(self, unit: Unit, units: int, rate: float, limits: Slo) -> Outcome:
        """What requests at a rate see of so many units."""
        asked = self.asked
        number = asked.requests or max(_FEWEST_REQUESTS, self.needed(unit, units, rate))
        load = Arrivals(
            rate_per_s=rate, requests=number, output_tokens=asked.osl, spread=0.1, warm_up=0.5, seed=asked.seed
        )
        return simulate(unit, units, load, limits)

    def highest_rate(self, limits: Slo, units: int) -> float:
        """The highest rate of one unit at which the share of requests that keep the limits is what is asked for."""
        asked, tight = self.asked, limits.times(_MARGIN)
        idle, _ = self.unit(0.0)
        decode = idle.decode_workers * idle.slots / (asked.osl * idle.step_s[-1])
        prefill = idle.prefill_workers / idle.prompt_s if idle.prompt_s else decode
        low, high = 0.0, min(decode, prefill)
        for _ in range(_SEARCH_STEPS):
            middle = (low + high) / 2
            seen = self.run(self.unit(middle)[0], units, middle * units, tight)
            low, high = (middle, high) if seen.attainment >= asked.share and not seen.saturated else (low, middle)
        if not low:
            quick = f"{idle.step_s[0] * 1e3:.1f} ms a token, {(idle.prompt_s + idle.after_s) * 1e3:.0f} ms to the first"
            raise InputError(
                f"{self.topology.label} cannot keep {limits} at any rate; nearly idle it gives {quick}",
                next="overspan plan --how-many --slo finds what can",
            )
        return low


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
