"""Prefill and decode on workers of their own: x prefill and y decode workers (xPyD), predicted and ranked.

Each side is what `predict` says of its layout with the other side's work taken out; between them stands a queue.
Nothing of the kind was measured here, so every prediction is an extrapolation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from overspan.planner import inputs, rank
from overspan.planner.predict import predict
from overspan.planner.refuse import refusals, slots
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo

_BUSY: Final = 0.95  # prefill workers are never busier in the mean: beyond, users wait until it is so
_ROUNDS: Final = 60


class Disaggregated(Frozen):
    """One xPyD and what it gives. Times are milliseconds."""

    prefill: Layout
    x: int
    decode: Layout
    y: int
    tpot_ms: float
    ttft_ms: float
    prefill_busy: float
    output_tokens_per_s: float
    meets: bool

    @property
    def gpus(self) -> int:
        """GPUs used."""
        return self.x * self.prefill.world_size + self.y * self.decode.world_size

    @property
    def label(self) -> str:
        """`2P1D tp2->dep8`."""
        return f"{self.x}P{self.y}D {self.prefill.label}->{self.decode.label}"


class Side(NamedTuple):
    """A layout as a prefill worker (time of one prompt) and what it may hold as a decode worker."""

    layout: Layout
    prompt_ms: float
    capacity: float


def rank_disaggregated(
    model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand, *, slo: Slo | None = None, top: int = 5
) -> list[Disaggregated]:
    """The best xPyD of an inventory: those that keep the limits first, then by tokens a second.

    Raises:
        InputError: no two layouts fit side by side.
    """
    limits = slo or Slo()
    total = sum(slots(host, inventory) for host in inventory.hosts)
    sides = [side for side in _sides(model, recipe, inventory, demand) if side.layout.world_size < total]
    steps: dict[tuple[Layout, int], float] = {}
    found: list[Disaggregated] = []
    for decode in sides:
        for y in range(1, total // decode.layout.world_size + 1):
            users = -(-demand.concurrency // y)
            key = (decode.layout, users)
            if users > decode.capacity * decode.layout.dp:
                continue
            if key not in steps:
                steps[key] = alone_step_ms(model, recipe, inventory, demand.with_(concurrency=users), decode)
            left = total - y * decode.layout.world_size
            found += [
                _meet(
                    prefill,
                    left // prefill.layout.world_size,
                    decode,
                    y,
                    step_ms=steps[key],
                    demand=demand,
                    limits=limits,
                )
                for prefill in sides
                if prefill.layout.world_size <= left
            ]
    if not found:
        raise InputError(f"no prefill worker and decode worker of {model.name} fit {inventory.name} side by side")
    return sorted(found, key=lambda one: (not one.meets, -one.output_tokens_per_s, one.gpus))[:top]


def predict_pair(
    model: ModelSpec,
    recipes: tuple[Recipe, Recipe],
    inventory: Inventory,
    demand: Demand,
    *,
    pair: tuple[tuple[int, Layout], tuple[int, Layout]],
) -> Disaggregated:
    """One xPyD that is given, predicted.

    Args:
        model: its sizes.
        recipes: as prefill and as decode workers run it.
        inventory: the machines.
        demand: the load on all workers together.
        pair: workers and layout of prefill, then of decode.

    Raises:
        InputError: nothing here can say it, or the decode workers' cache holds fewer users.
    """
    (x, first), (y, second) = pair
    prefill = side_of(model, recipes[0], inventory, demand, first)
    users = demand.with_(concurrency=-(-demand.concurrency // y))
    case = inputs.case_of(model, recipes[1], second, inventory, users)
    room = inputs.capacity(case, recipes[1], inventory) * second.dp
    if users.concurrency > room:
        raise InputError(f"a decode worker's cache holds {room:.0f} of its {users.concurrency} users; the others wait")
    decode = Side(layout=second, prompt_ms=0.0, capacity=room / second.dp)
    step_ms = alone_step_ms(model, recipes[1], inventory, users, decode)
    return _meet(prefill, x, decode, y, step_ms=step_ms, demand=demand, limits=Slo())


def _sides(model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand) -> Iterator[Side]:
    """Every layout that could be a worker. A pipeline is none: its stages would wait for each other's transfers."""
    for layout in rank.layouts(model, sum(slots(host, inventory) for host in inventory.hosts)):
        if layout.pp > 1 or refusals(model, layout, inventory, recipe):
            continue
        yield side_of(model, recipe, inventory, demand, layout)


def side_of(model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand, layout: Layout) -> Side:
    """A layout as a prefill worker, and how many requests it may hold as a decode worker."""
    case = inputs.case_of(model, recipe, layout, inventory, demand.with_(concurrency=1))
    alone = predict(case)
    sent = model.kv_bytes(round(demand.isl), case.setting.kv_value_bytes) / layout.world_size
    link = case.hardware.within if case.hardware.domain_gpus else case.hardware.between
    wire = (sent / link.bytes_per_s + link.latency_s) * 1e3
    return Side(
        layout=layout,
        prompt_ms=(alone.ttft_terms["first_layer"] + alone.ttft_terms["first_prefill"] + wire) / layout.dp,
        capacity=inputs.capacity(case, recipe, inventory),
    )


def alone_step_ms(model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand, side: Side) -> float:
    """Time of a token on a decode worker: no prompt ever stands in its way."""
    seen = predict(inputs.case_of(model, recipe, side.layout, inventory, demand))
    return seen.tpot_ms - seen.terms.get("prefill", 0.0)


def _meet(prefill: Side, x: int, decode: Side, y: int, *, step_ms: float, demand: Demand, limits: Slo) -> Disaggregated:
    """Both sides in one closed loop: users wait for prompts in an M/D/1 queue, then decode."""
    # A worker with data-parallel groups serves that many prompts at a time: prompt_ms is the time between two of them.
    serve = prefill.prompt_ms * prefill.layout.dp
    ttft = serve
    for _ in range(_ROUNDS):
        rate = demand.concurrency / (ttft + demand.osl * step_ms)  # requests a ms
        busy = rate * prefill.prompt_ms / x
        if busy >= _BUSY:
            # The slower side sets the pace; what is left of the cycle is waiting.
            wanted = demand.concurrency * prefill.prompt_ms / (x * _BUSY) - demand.osl * step_ms
        else:
            wanted = serve + prefill.prompt_ms / x * busy / (2 * (1 - busy))
        ttft = (ttft + max(serve, wanted)) / 2
    cycle = ttft + demand.osl * step_ms
    return Disaggregated(
        prefill=prefill.layout,
        x=x,
        decode=decode.layout,
        y=y,
        tpot_ms=step_ms,
        ttft_ms=ttft,
        prefill_busy=demand.concurrency / cycle * prefill.prompt_ms / x,
        output_tokens_per_s=demand.concurrency * demand.osl / cycle * 1e3,
        meets=limits.met_by(ttft_ms=ttft, tpot_ms=step_ms),
    )
