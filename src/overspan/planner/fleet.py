"""Scale on paper: requests arrive at a fleet of equal units and are followed one by one (discrete events, simpy).

A unit is what shares a queue: one aggregated replica, or the x prefill and y decode workers of an xPyD. Every time
comes from the predictor: a prompt takes a prefill worker for its time, one after another; a decode worker gives each
request that it holds the same pace, which is the predicted step for as many as it holds (processor sharing); who finds
every place in the cache taken waits.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.slo import Slo
from overspan.schema.statistics import percentile

if TYPE_CHECKING:
    import simpy

_TAIL: Final = (50, 90, 99)
_Tell = Callable[[int], None]


class Unit(Frozen):
    """One unit of a fleet, as the predictor sees it. Times are seconds.

    `prompt_s` None: prefill passes through the decode workers themselves, so their steps hold its cost.
    """

    prefill_workers: int = Field(0, ge=0)
    prompt_s: float = Field(0.0, ge=0, description="service of one prompt by a prefill worker")
    after_s: float = Field(0.0, ge=0, description="from the prompt's end to the first token, nobody waiting")
    decode_workers: int = Field(1, ge=1)
    slots: int = Field(ge=1, description="requests that one decode worker holds at a time")
    step_s: list[float] = Field(min_length=1, description="time of a token with 1, 2, ... requests held")
    gpus: int = Field(ge=1)

    def step(self, held: int) -> float:
        """Time of a token of each of some requests on one decode worker."""
        return self.step_s[min(held, len(self.step_s)) - 1]


class Arrivals(Frozen):
    """Requests that come by themselves, whatever the fleet does (an open loop)."""

    rate_per_s: float = Field(gt=0)
    requests: int = Field(ge=10)
    output_tokens: float = Field(ge=1)
    spread: float = Field(0.0, ge=0, lt=1, description="output lengths are even within (1 - spread, 1 + spread) x mean")
    exponential: bool = Field(False, description="output lengths are exponential in place of even")
    warm_up: float = Field(0.2, ge=0, lt=1, description="share of the first requests that is not counted")
    seed: int = 0


class Outcome(Frozen):
    """What the requests saw. Times are milliseconds; keys of the percentiles are `mean`, `p50`, `p90`, `p99`."""

    requests: int
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]
    e2e_ms: dict[str, float]
    attainment: float = Field(description="share of the requests that kept every limit")
    wait_ms: float = Field(description="mean wait for a prefill worker or a place, the service itself left out")
    prefill_busy: float
    held: float = Field(description="mean number of requests that one decode worker held")
    output_tokens_per_s: float
    saturated: bool = Field(description="requests came faster than they were served: no steady state")


class _Worker:
    """A decode worker: all its requests move at one pace, which their number sets.

    Work is counted in tokens on a clock of the worker's own, so that a change of pace costs nothing but one event.
    """

    def __init__(self, env: simpy.Environment, unit: Unit, started: _Tell, done: _Tell) -> None:
        self._env, self._unit, self._started, self._done = env, unit, started, done
        self._ends: list[tuple[float, int]] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._clock = 0.0
        self._seen = 0.0
        self._plan = 0
        self.held_s = 0.0

    @property
    def load(self) -> int:
        """Requests here, waiting ones included."""
        return len(self._ends) + len(self._waiting)

    def take(self, request: int, tokens: float) -> None:
        """Hold a request, now or when there is a place."""
        if len(self._ends) >= self._unit.slots:
            self._waiting.append((request, tokens))
            return
        self._advance()
        self._hold(request, tokens)
        self._next()

    def _hold(self, request: int, tokens: float) -> None:
        heapq.heappush(self._ends, (self._clock + tokens, request))
        self._started(request)

    def _advance(self) -> None:
        spent, held = self._env.now - self._seen, len(self._ends)
        if held:
            self._clock += spent / self._unit.step(held)
        self.held_s += spent * held
        self._seen = self._env.now

    def _next(self) -> None:
        """Wake up when the request nearest to its end is there; an older plan to wake up counts no more."""
        self._plan += 1
        if self._ends:
            left = max(0.0, self._ends[0][0] - self._clock) * self._unit.step(len(self._ends))
            self._env.timeout(left, self._plan).callbacks.append(self._due)

    def _due(self, event: simpy.Event) -> None:
        if event.value != self._plan:
            return
        self._advance()
        end = max(self._clock, self._ends[0][0])  # what rounding left over is done too
        while self._ends and self._ends[0][0] <= end:
            self._done(heapq.heappop(self._ends)[1])
            if self._waiting:
                self._hold(*self._waiting.popleft())
        self._next()


class _Fleet:
    """All units of a simulation, and the stamps of every request."""

    def __init__(self, unit: Unit, units: int, load: Arrivals) -> None:
        import simpy

        self.env = simpy.Environment()
        self.unit, self.units, self.load = unit, units, load
        self.arrived, self.first, self.ended = ([0.0] * load.requests for _ in range(3))
        self.entered = [0.0] * load.requests
        self.wait = [0.0] * load.requests
        self.tokens = [0.0] * load.requests
        self.left = load.requests
        self.finished = self.env.event()
        self.busy_s = 0.0
        self.prefill = [
            simpy.Resource(self.env, capacity=unit.prefill_workers) if unit.prefill_workers else None
            for _ in range(units)
        ]
        self.decode = [
            [_Worker(self.env, unit, self._started, self._done) for _ in range(unit.decode_workers)]
            for _ in range(units)
        ]
        self.env.process(self._arrivals(random.Random(load.seed)))  # noqa: S311 - a simulation, not a secret

    def _arrivals(self, draw: random.Random) -> Generator[Any, Any, None]:
        load = self.load
        for request in range(load.requests):
            yield self.env.timeout(draw.expovariate(load.rate_per_s))
            self.arrived[request] = self.env.now
            even = load.output_tokens * (1 + load.spread * draw.uniform(-1, 1))
            self.tokens[request] = draw.expovariate(1 / load.output_tokens) if load.exponential else even
            self._come(request, self._least(draw))

    def _least(self, draw: random.Random) -> int:
        """The unit with fewer requests of two drawn ones: what routers do at this size (Mitzenmacher 2001)."""
        one, two = draw.randrange(self.units), draw.randrange(self.units)
        return min(one, two, key=self._at)

    def _at(self, unit: int) -> int:
        line = self.prefill[unit]
        queued = len(line.queue) + line.count if line is not None else 0
        return queued + sum(worker.load for worker in self.decode[unit])

    # Callbacks in place of a process for each request: three times quicker, and there are hundreds of thousands.
    def _come(self, request: int, unit: int) -> None:
        line = self.prefill[unit]
        if line is None:
            return self._decode(request, unit)
        turn = line.request()
        return turn.callbacks.append(lambda _: self._prefill(request, unit, line, turn))

    def _prefill(self, request: int, unit: int, line: simpy.Resource, turn: simpy.resources.resource.Request) -> None:
        self.wait[request] = self.env.now - self.arrived[request]
        self.busy_s += self.unit.prompt_s

        def end(_: simpy.Event) -> None:
            line.release(turn)
            self._decode(request, unit)

        self.env.timeout(self.unit.prompt_s).callbacks.append(end)

    def _decode(self, request: int, unit: int) -> None:
        self.entered[request] = self.env.now
        worker = min(self.decode[unit], key=lambda one: one.load)
        worker.take(request, self.tokens[request])

    def _started(self, request: int) -> None:
        self.wait[request] += self.env.now - self.entered[request]
        self.first[request] = self.env.now + self.unit.after_s

    def _done(self, request: int) -> None:
        self.ended[request] = self.env.now + self.unit.after_s
        self.left -= 1
        if not self.left:
            self.finished.succeed()


def simulate(unit: Unit, units: int, load: Arrivals, limits: Slo | None = None) -> Outcome:
    """Follow every request of a load through a fleet.

    Args:
        unit: one of its equal units.
        units: how many there are.
        load: the requests, arriving as a Poisson stream.
        limits: on the time to the first token, and on the mean time of the tokens after it.
    """
    fleet = _Fleet(unit, units, load)
    fleet.env.run(until=fleet.finished)
    counted = range(int(load.warm_up * load.requests), load.requests)
    ttft = [(fleet.first[i] - fleet.arrived[i]) * 1e3 for i in counted]
    e2e = [(fleet.ended[i] - fleet.arrived[i]) * 1e3 for i in counted]
    tpot = [(fleet.ended[i] - fleet.first[i]) * 1e3 / fleet.tokens[i] for i in counted]
    limits = limits or Slo()
    kept = [limits.met_by(ttft_ms=first, tpot_ms=each) for first, each in zip(ttft, tpot, strict=True)]
    span, last = fleet.arrived[-1], fleet.env.now
    workers = [worker for one in fleet.decode for worker in one]
    return Outcome(
        requests=len(ttft),
        ttft_ms=_summary(ttft),
        tpot_ms=_summary(tpot),
        e2e_ms=_summary(e2e),
        attainment=fmean(kept),
        wait_ms=fmean(fleet.wait[i] for i in counted) * 1e3,
        prefill_busy=fleet.busy_s / (last * units * unit.prefill_workers) if unit.prefill_workers else 0.0,
        held=sum(worker.held_s for worker in workers) / (last * len(workers)),
        output_tokens_per_s=sum(fleet.tokens) / last,
        saturated=_saturated(fleet, span, last),
    )


def _saturated(fleet: _Fleet, span: float, last: float) -> bool:
    """Whether waits grow with time: the last tenth waits far longer than the middle, and the end drags on."""
    number = fleet.load.requests
    middle = fmean(fleet.wait[number * 4 // 10 : number * 5 // 10])
    end = fmean(fleet.wait[-(number // 10) :])
    usual = fmean(fleet.ended[i] - fleet.entered[i] for i in range(number))
    return end > 1.5 * middle + 0.1 * usual


def _summary(sample: Sequence[float]) -> dict[str, float]:
    ordered = sorted(sample)
    return {"mean": fmean(ordered), **{f"p{share}": percentile(ordered, share / 100) for share in _TAIL}}
