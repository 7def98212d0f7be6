"""Prefill and decode on workers of their own: x prefill and y decode workers (xPyD), predicted and ranked.

Each side is what `predict` says of its layout with the other side's work taken out; between them stands a queue.
Nothing of the kind was measured here, so every prediction is an extrapolation.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from overspan.planner import inputs, rank
from overspan.planner.features import Case
from overspan.planner.predict import predict
from overspan.planner.refuse import refusals, slots
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.topology import Topology
from overspan.schema.workload import Demand

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
    model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand, *, slo: Slo, top: int = 5
) -> list[Disaggregated]:
    """The best xPyD of an inventory: those that keep the limits first, then by tokens a second.

    Raises:
        InputError: no two layouts fit side by side.
    """
    total = sum(slots(host, inventory) for host in inventory.hosts)
    # A pipeline is no worker: its stages would wait for each other's transfers.
    fitting = (layout for layout in rank.layouts(model, total) if layout.pp == 1 and layout.world_size < total)
    able = [layout for layout in fitting if not refusals(model, layout, inventory, recipe)]
    sides = [side_of(model, recipe, inventory, demand, layout) for layout in able]
    steps: dict[tuple[Layout, int], float] = {}
    found: list[Disaggregated] = []
    for decode in sides:
        for y in range(1, total // decode.layout.world_size + 1):
            users, left = -(-demand.concurrency // y), total - y * decode.layout.world_size
            key = (decode.layout, users)
            if users > decode.capacity * decode.layout.dp:
                continue
            if key not in steps:
                steps[key] = _step_ms(inputs.case_of(model, recipe, *_at(decode.layout, inventory, demand, users)))
            found += [
                _meet((prefill, left // prefill.layout.world_size), (decode.layout, y), steps[key], demand, slo)
                for prefill in sides
                if prefill.layout.world_size <= left
            ]
    if not found:
        raise InputError(f"no prefill worker and decode worker of {model.name} fit {inventory.name} side by side")
    return sorted(found, key=lambda one: (not one.meets, -one.output_tokens_per_s, one.gpus))[:top]


def predict_topology(
    model: ModelSpec, recipe: Recipe, topology: Topology, inventory: Inventory, demand: Demand
) -> Disaggregated:
    """One xPyD that is given, predicted; the load is on all workers together.

    Raises:
        InputError: nothing here can say it, or the decode workers' cache holds fewer users.
    """
    first, second = topology.roles
    own, layout = recipe.for_role(second), second.layout
    users = -(-demand.concurrency // second.workers)
    case = inputs.case_of(model, own, *_at(layout, inventory, demand, users))
    room = inputs.capacity(case, own, inventory) * layout.dp
    if users > room:
        raise InputError(f"a decode worker's cache holds {room:.0f} of its {users} users; the others wait")
    prefill = side_of(model, recipe.for_role(first), inventory, demand, first.layout)
    return _meet((prefill, first.workers), (layout, second.workers), _step_ms(case), demand, Slo())


def side_of(model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand, layout: Layout) -> Side:
    """A layout as a prefill worker, and how many requests it may hold as a decode worker."""
    case = inputs.case_of(model, recipe, *_at(layout, inventory, demand, 1))
    waits = predict(case).ttft_terms
    sent = model.kv_bytes(round(demand.isl), case.setting.kv_value_bytes) / layout.world_size
    link = case.hardware.within if case.hardware.domain_gpus else case.hardware.between
    wire_ms = (sent / link.bytes_per_s + link.latency_s) * 1e3
    prompt_ms = (waits["first_layer"] + waits["first_prefill"] + wire_ms) / layout.dp
    return Side(layout, prompt_ms, capacity=inputs.capacity(case, recipe, inventory))


def _at(layout: Layout, inventory: Inventory, demand: Demand, users: int) -> tuple[Layout, Inventory, Demand]:
    return layout, inventory, demand.with_(concurrency=users)


def _step_ms(case: Case) -> float:
    """Time of a token on a decode worker: no prompt ever stands in its way."""
    seen = predict(case)
    return seen.tpot_ms - seen.terms.get("prefill", 0.0)


def _meet(
    prefill: tuple[Side, int], decode: tuple[Layout, int], step_ms: float, demand: Demand, limits: Slo
) -> Disaggregated:
    """Both sides, each with its number of workers, in one closed loop: users wait for prompts in an M/D/1 queue."""
    (side, x), (layout, y) = prefill, decode
    # A worker with data-parallel groups serves that many prompts at a time: prompt_ms is the time between two of them.
    serve = ttft = side.prompt_ms * side.layout.dp
    decoding = demand.osl * step_ms
    for _ in range(_ROUNDS):
        busy = demand.concurrency / (ttft + decoding) * side.prompt_ms / x
        if busy >= _BUSY:
            # The slower side sets the pace; what is left of the cycle is waiting.
            wanted = demand.concurrency * side.prompt_ms / (x * _BUSY) - decoding
        else:
            wanted = serve + side.prompt_ms / x * busy / (2 * (1 - busy))
        ttft = (ttft + max(serve, wanted)) / 2
    cycle = ttft + decoding
    return Disaggregated(
        prefill=side.layout,
        x=x,
        decode=layout,
        y=y,
        tpot_ms=step_ms,
        ttft_ms=ttft,
        prefill_busy=demand.concurrency / cycle * side.prompt_ms / x,
        output_tokens_per_s=demand.concurrency * demand.osl / cycle * 1e3,
        meets=limits.met_by(ttft_ms=ttft, tpot_ms=step_ms),
    )
