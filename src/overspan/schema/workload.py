"""What is asked of an endpoint, and what it gave. Times are milliseconds, rates are per second."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from overspan.schema.base import Frozen
from overspan.schema.defaults import USUAL_INPUT_TOKENS, USUAL_OUTPUT_TOKENS
from overspan.schema.units import count

FEWEST_REQUESTS: Final = 16
"""At a level whose number of requests is not given: percentiles of fewer say nothing. Source: Overspan's choice."""

REQUESTS_A_USER: Final = 4
"""Where their number is not given."""


class Demand(Frozen):
    """One load, as it is predicted, measured and named. Lengths are means of what is really sent and asked for.

    `in_step`: all answers have one length, so the users of a closed loop end together and each round is a burst. Else
    their requests come spread.
    """

    isl: float = Field(USUAL_INPUT_TOKENS, gt=0, description="input tokens of a request")
    osl: float = Field(USUAL_OUTPUT_TOKENS, gt=0, description="output tokens of a request")
    concurrency: int = Field(1, ge=1, description="users, each with one request at a time")
    rounds: float = Field(10, ge=1, description="requests of each user; all of them start together")
    in_step: bool = Field(False, description="all answers have one length: users end together, each round is a burst")
    window: Literal["whole", "steady"] = Field("whole", description="steady: without the burst at the start")
    rate_per_s: float | None = Field(None, gt=0, description="of an open loop; concurrency is then what is in flight")
    input_lengths: str | None = Field(None, description="how they are drawn; null where all are the same")
    output_lengths: str | None = None

    @property
    def phrase(self) -> str:
        """`32 users in step, 1024 tokens in, 128 out (fixed lengths), whole run`: as every command says it."""
        return self.phrase_of([self.rate_per_s or self.concurrency])

    def phrase_of(self, levels: Sequence[float]) -> str:
        """The same for several numbers of users, or several rates."""
        told = ", ".join(f"{level:.10g}" for level in levels)
        who = f"{told} requests/s"
        if self.rate_per_s is None:
            who = "1 user" if told == "1" else f"{told} users {'in step' if self.in_step else 'spread'}"
        drawn = dict.fromkeys(lengths for lengths in (self.input_lengths, self.output_lengths) if lengths)
        how = f"drawn lengths: {', '.join(drawn)}" if drawn else "fixed lengths"
        window = "whole run" if self.window == "whole" else "steady window"
        return f"{who}, {self.isl:.0f} tokens in, {self.osl:.0f} out ({how}), {window}"

    @property
    def asked(self) -> dict[str, object]:
        """What was stated of it, by the name of its option."""
        held: dict[str, object] = {"isl": self.input_lengths or self.isl, "osl": self.output_lengths or self.osl}
        stated = {name: value for name, value in held.items() if name in self.model_fields_set}
        if "concurrency" in self.model_fields_set:
            stated["concurrency"] = self.concurrency
        requests = round(self.rounds * self.concurrency)
        if (
            "rounds" in self.model_fields_set
            and self.rate_per_s is None
            and requests != max(FEWEST_REQUESTS, REQUESTS_A_USER * self.concurrency)
        ):
            stated["requests"] = requests
        return stated if self.rate_per_s is None else stated | {"rate": self.rate_per_s}


class Workload(Frozen):
    """A load at each of some concurrencies (closed loop), or at each of some rates (open loop).

    `input_tokens` and `output_tokens` are means where `input_lengths` and `output_lengths` give a distribution.
    """

    concurrency: list[int] = Field(default_factory=list, description="users of a closed loop; empty for an open one")
    requests: int = Field(ge=1, description="requests at each point; not used where duration_s limits them")
    input_tokens: int = Field(USUAL_INPUT_TOKENS, ge=1)
    output_tokens: int = Field(USUAL_OUTPUT_TOKENS, ge=1)
    endpoint: Literal["chat", "completions"] = "chat"
    seed: int = 0
    timeout_s: float = Field(600.0, gt=0)
    arrival: Literal["closed", "constant", "poisson", "gamma", "trace"] = "closed"
    rates: list[float] = Field(default_factory=list, description="requests per second of an open loop")
    burstiness: float = Field(1.0, gt=0, description="shape of gamma arrivals: 1 is Poisson, less is burstier")
    duration_s: float | None = Field(None, gt=0, description="no request is sent after this long")
    ramp_s: float = Field(0.0, ge=0, description="the users start one by one over this time")
    input_lengths: str | None = None
    output_lengths: str | None = None
    turns: int = Field(1, ge=1, description="requests of one conversation, each with the ones before it")
    shared_prefix_tokens: int = Field(0, ge=0, description="words that every prompt begins with")
    trace: str | None = Field(None, description="file of requests to replay")
    trace_speed: float = Field(1.0, gt=0, description="2 replays a trace in half its time")
    slo_ms: dict[str, float] = Field(default_factory=dict, description="limits by metric: ttft, tpot, itl, e2e")
    slo_share: float = Field(0.99, gt=0, le=1, description="of the requests that must keep within the limits")
    search: bool = Field(False, description="look for the highest load that keeps within the limits")
    shards: int | None = Field(None, ge=1, description="processes of the client; chosen by the load when null")
    warmup: int = Field(0, ge=0, description="requests before each point that are not counted")
    requests_a_user: int | None = Field(
        None, ge=1, description="each number of users gets so many for each user, 16 at least; requests is the most"
    )
    ignore_eos: bool = Field(True, description="ask for answers that go on behind the model's end of text")

    def requests_at(self, users: int | None) -> int:
        """Requests at a number of users; None: at a rate, or of a trace."""
        if self.requests_a_user is None or users is None:
            return self.requests
        return max(FEWEST_REQUESTS, self.requests_a_user * users)

    def demand(self, users: int | None = None, rate_per_s: float | None = None) -> Demand:
        """The load of one level."""
        drawn = "a trace" if self.trace else f"{self.turns} turns" if self.turns > 1 else None
        inputs, outputs = drawn or self.input_lengths, drawn or self.output_lengths
        at_once = self.arrival == "closed" and not self.ramp_s and self.ignore_eos
        return Demand(
            isl=self.input_tokens * self.turns,
            osl=self.output_tokens,
            concurrency=users or 1,
            rounds=max(1.0, self.requests_at(users) / users) if users else 1.0,
            in_step=at_once and not inputs and not outputs,
            rate_per_s=rate_per_s,
            input_lengths=inputs,
            output_lengths=outputs,
        )


class Distribution(Frozen):
    """A sample's summary; every field is null when there was no sample."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class RequestCounts(Frozen):
    """Every planned request is ok or failed; `errors` counts the failed ones by kind, `details` quotes one of each."""

    planned: int
    ok: int
    failed: int
    errors: dict[str, int] = Field(default_factory=dict)
    details: dict[str, str] = Field(default_factory=dict)


class AnsweredRequest(Frozen):
    """What is read of a line of requests-<level>.jsonl, where the request ended well. The line holds more than this.

    `*_at_ms` count from the point's start, the latencies from the request's actual send. A request without any text has
    no TTFT; one of a single token or chunk has no TPOT.
    """

    model_config = ConfigDict(extra="ignore")

    e2e_ms: float
    ttft_ms: float | None
    tpot_ms: float | None
    itl_ms: list[float]
    first_token_at_ms: float | None
    last_token_at_ms: float | None
    end_at_ms: float
    output_tokens: int


class AskedAndGot(Frozen):
    """Lengths in tokens of the requests that ended well: what was asked of them and what came.

    Attributes:
        difference: what all requests are off by, too much or too little, as a share of what was asked.
        requests_off: those that are off by more than a twentieth and more than one token.
        off: the lengths are not those that were asked for.
    """

    asked: Distribution
    got: Distribution
    requests: int
    requests_off: int
    difference: float
    off: bool


class SteadyWindow(Frozen):
    """From when all users were in flight to the last send: neither the start's burst nor the end's thinning."""

    duration_s: float
    requests: int
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    output_tokens_per_s: float


class Goodput(Frozen):
    """The requests that kept within every limit, and their rates."""

    slo_ms: dict[str, float]
    share: float
    requests_per_s: float
    output_tokens_per_s: float


class MeanAndP99(Frozen):
    """Two numbers of a sample, null when there was none."""

    mean: float | None = None
    p99: float | None = None


class SelfTest(Frozen):
    """The client measured against a server whose times are known; errors are what it read less the truth."""

    streams: int
    true_ttft_ms: float | None
    true_tpot_ms: float | None
    ttft_error_ms: MeanAndP99
    tpot_error_ms: MeanAndP99
    reasons: list[str] = Field(description="what is off by more than the limit")


class ClientAudit(Frozen):
    """What the client says about itself. A file holds what was stated, and no other key."""

    processes: int = 1
    timestamps: Literal["kernel", "user", "unknown"] = "unknown"
    kernel_to_user_lag_ms: MeanAndP99 = MeanAndP99()
    loop_turn_ms: MeanAndP99 = MeanAndP99()
    send_lag_ms: MeanAndP99 = MeanAndP99()
    concurrency_requested: int | None = None
    concurrency_peak: int | None = None
    concurrency_share: float | None = Field(None, description="of those requested: in flight on average, when steady")
    concurrency_share_paused: float = Field(0.0, description="of the users' time: pauses after a broken connection")
    cpu_share: float | None = Field(None, description="of one core, of the busiest process")
    cpu_s: float | None = None
    cpu_s_per_1k_tokens: float | None = None
    connections_opened: int | None = None
    stale_retries: int = 0
    clock_step_ms: float = 0.0
    reasons: list[str] = Field(default_factory=list, description="why the client spoiled the measurement")
    calibration: SelfTest | None = None

    @model_serializer(mode="wrap")
    def stated(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields that were stated, in their order."""
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


class GaugeSummary(Frozen):
    """A gauge over a point."""

    mean: float
    max: float


ServerMetrics = dict[str, GaugeSummary | int | float | str]
"""The server's own metrics over a point, by name: gauges, what counters grew by, and why nothing was read."""


class GpuClocks(Frozen):
    """One GPU over a point; what it does not tell is null. Shares are of the time, of its samples."""

    host: str
    index: int
    samples: int
    sm_clock_mhz: float | None = Field(None, description="mean")
    lowest_sm_clock_mhz: float | None = None
    max_sm_clock_mhz: float | None = Field(None, description="what it may reach")
    power_w: float | None = Field(None, description="mean")
    power_limit_w: float | None = None
    at_cap_share: float | None = Field(None, description="at its power cap")
    slowed: dict[str, float] = Field(default_factory=dict, description="shares of the time, by reason")


class Pauses(Frozen):
    """The times in which the server stood still: all requests that were being answered stopped together."""

    count: int = 0
    seconds: float = Field(0.0, description="in all")
    longest_s: float = 0.0
    logged: int = Field(0, description="lines in which the engine's own log told of one, such as a compilation")


class BenchPoint(Frozen):
    """What one concurrency gave, or one rate (`rate_per_s`; then `concurrency` is the peak in flight).

    Latencies count from the actual send; `from_intended_*` from when an open loop wanted it sent. `miscounted` are
    requests whose usage cannot be of what was received, `miscount` is one of them in words. `pauses` is null where
    nobody looked; where they took more than 1 % of the time, or the engine told of one, the point is `disturbed`: its
    numbers hold them, those of `steady` do not.
    """

    concurrency: int
    requests: RequestCounts
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    chunk_gap_ms: Distribution = Distribution()
    output_tokens_per_s: float | None
    input_tokens_per_s: float | None = None
    total_tokens_per_s: float | None = None
    duration_s: float | None = None
    rate_per_s: float | None = None
    requests_per_s: float | None = None
    from_intended_ttft_ms: Distribution = Distribution()
    from_intended_e2e_ms: Distribution = Distribution()
    steady: SteadyWindow | None = None
    goodput: Goodput | None = None
    input_lengths: AskedAndGot | None = None
    output_lengths: AskedAndGot | None = None
    short_ends: str = Field("", description="finish reasons of the answers that are shorter than asked")
    unseen_tokens: int = Field(0, description="counted by the server and not seen to come")
    tpot_range_ms: list[float] | None = Field(None, description="of the mean TPOT, where it cannot be told")
    in_one_piece: int = Field(0, description="answers of several tokens that came in one chunk, or showed none")
    miscounted: int = 0
    miscount: str | None = None
    client_bound: bool = False
    client: ClientAudit = ClientAudit()
    server: ServerMetrics = Field(default_factory=dict)
    pauses: Pauses | None = None
    disturbed: bool = False
    gpus: list[GpuClocks] = Field(default_factory=list)
    gpus_unknown: dict[str, str] = Field(default_factory=dict, description="why clocks are not known, by host")

    @model_serializer(mode="wrap")
    def looked_at(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every field; of pauses only where somebody looked."""
        looked = self.pauses is not None
        return {name: value for name, value in handler(self).items() if looked or name not in ("pauses", "disturbed")}

    @property
    def load(self) -> str:
        """How much load it had: see `load_words`."""
        return load_words(self.concurrency, self.rate_per_s)

    @property
    def settled(self) -> SteadyWindow | None:
        """The steady window, where it holds more than its quickest requests: two, and as many as there are users."""
        return self.steady if self.steady and self.steady.requests >= max(2, self.concurrency) else None

    @property
    def lengths_off(self) -> bool:
        """Whether prompts or answers are not as long as they were asked to be."""
        return any(each is not None and each.off for each in (self.input_lengths, self.output_lengths))


class BenchResult(Frozen):
    """bench.json: the load, where it went and each point."""

    base_url: str
    model: str
    started_at: str
    workload: Workload
    points: list[BenchPoint]
    overspan_version: str
    notes: list[str] = Field(default_factory=list)

    def demand(self, point: BenchPoint) -> Demand:
        """The load of a point, as it was asked for."""
        return self.workload.demand(None if point.rate_per_s is not None else point.concurrency, point.rate_per_s)

    @property
    def phrase(self) -> str:
        """The load of all points, in the words of `Demand.phrase`."""
        if self.workload.arrival == "trace" or not self.points:
            return "a trace at its own times, whole run" if self.workload.trace else "no load"
        return self.demand(self.points[0]).phrase_of([point.rate_per_s or point.concurrency for point in self.points])

    def level(self, point: BenchPoint) -> int | str:
        """See `level_of`."""
        return level_of(None if self.workload.arrival == "trace" else point.concurrency, point.rate_per_s)


def load_words(users: int | None, rate_per_s: float | None = None) -> str:
    """How much load, for a sentence: `16 users`, `1 user`, or `2.5 requests/s` of an open loop."""
    return count(users or 0, "user") if rate_per_s is None else f"{rate_per_s:g} requests/s"


def level_of(users: int | None, rate_per_s: float | None) -> int | str:
    """What tells a point from the others of a bench, and names its `requests-<level>.jsonl`: users, rate or trace."""
    if rate_per_s is not None:
        return f"rate-{rate_per_s:g}"
    return "trace" if users is None else users
