"""What of a workload fits together: told before anything is asked of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from overspan.bench.job import Level
from overspan.bench.lengths import parse_lengths
from overspan.bench.trace import read_trace
from overspan.schema.errors import InputError
from overspan.schema.workload import Workload


def levels_of(workload: Workload) -> list[Level]:
    """The levels of a workload, in its order."""
    if workload.arrival == "closed":
        return [Level(users=users) for users in workload.concurrency]
    if workload.arrival == "trace":
        return [Level()]
    return [Level(rate_per_s=rate) for rate in workload.rates]


def check_workload(workload: Workload) -> None:
    """Refuse what does not fit together, what would have no effect, and files that cannot be read.

    Raises:
        InputError: names the field and what would be right.
    """
    if not levels_of(workload):
        missing = "concurrency" if workload.arrival == "closed" else "rates"
        raise InputError(f"a {workload.arrival} load needs {missing}", next=f"give --{missing.removesuffix('s')}")
    if workload.search and not workload.slo_ms:
        raise InputError("a search needs limits", next="give them like --slo ttft=500,tpot=50")
    if workload.arrival == "trace" and workload.trace is None:
        raise InputError("arrivals of a trace need a trace", next="give --trace FILE")
    for problem, remedy in _without_effect(workload):
        raise InputError(problem, next=remedy)
    if workload.trace is not None:
        _, timed = read_trace(Path(workload.trace))
        if workload.arrival == "trace" and not timed:
            raise InputError(f"{workload.trace} has no times", next="give --concurrency or --rate")
    for notation in (workload.input_lengths, workload.output_lengths):
        if notation is not None:
            parse_lengths(notation)


def _without_effect(workload: Workload) -> Iterator[tuple[str, str]]:
    """Options that the rest of the load leaves no place for, each with what to do."""
    closed, traced = workload.arrival == "closed", workload.trace is not None
    if not closed and workload.turns > 1:
        yield "turns of a conversation need a closed loop", "leave out --rate, or --turns"
    if not closed and workload.ramp_s:
        yield "a ramp is of users, and this load has none", "leave out --ramp, or give --concurrency"
    if workload.arrival != "gamma" and workload.burstiness != 1.0:
        yield "burstiness is of gamma arrivals", "add --arrival gamma, or leave out --burstiness"
    if workload.arrival != "trace" and workload.trace_speed != 1.0:
        yield "a speed is of a trace's own times", "add --arrival trace, or leave out --trace-speed"
    if workload.arrival == "trace" and workload.search:
        yield "a search changes users or rates, and a trace has its own times", "give --concurrency or --rate"
    if traced and (workload.turns > 1 or workload.shared_prefix_tokens):
        yield "a trace brings its own prompts", "leave out --turns and --shared-prefix, or --trace"
    if workload.shared_prefix_tokens and workload.shared_prefix_tokens >= workload.input_tokens:
        wrong = f"prompts of {workload.input_tokens} tokens cannot begin with {workload.shared_prefix_tokens} others"
        yield wrong, "--input-tokens counts the prefix too: give more"
