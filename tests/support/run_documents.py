"""The documents of an invented run, for tests of what is made from them. No number here was measured."""

from __future__ import annotations

import random
from array import array
from datetime import UTC, datetime, timedelta
from typing import Any

from overspan.bench import records
from overspan.bench.metrics import NS_PER_MS, Samples, summary
from overspan.bench.stream import Stream
from overspan.report import RunDocuments, request_curves
from overspan.report.documents import Curve
from overspan.schema.event import Event
from overspan.schema.finding import Evidence, Finding
from overspan.schema.inventory import Gpu, Host, Inventory, Nic
from overspan.schema.layout import Layout
from overspan.schema.plan import Endpoint, EngineChoice, Placement, Plan, Rejection
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.workload import BenchPoint, BenchResult, RequestCounts, Workload

START = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
OUTPUT_TOKENS = 64
STARTED_NS = 10**18
"""When a point began: 0 means never."""


def plan(**changes: Any) -> Plan:
    """A one-process plan on CPU cores; `changes` replace fields."""
    host = Host(name="laptop", cores=2, memory_bytes=24 * 2**30, cpu_model="AMD EPYC 9B14", os="Debian 12")
    recipe = Recipe(name="tiny", model="acme/tiny-135m", served_model_name="tiny-135m", engine_args={"seed": 7})
    fields: dict[str, Any] = {
        "recipe": recipe,
        "inventory": Inventory(hosts=[host], description="one machine"),
        "layout": Layout(),
        "engine": EngineChoice(name="vllm", version="0.32.0", environment="/cache/engine"),
        "endpoint": Endpoint(host="127.0.0.1", port=8000, model="tiny-135m"),
        "placements": [Placement(process="api", host="laptop", ranks=[0])],
        "memory_per_rank": {"weights": 273 * 2**20, "kv_cache": 2**30},
        "notes": ["eager: compiled BF16 answers wrongly on this CPU"],
        "overspan_version": "0.1.0",
    }
    return Plan(**{**fields, **changes})


def gpu_plan() -> Plan:
    """Two hosts with one GPU each, tensor-parallel over both, and a rejected layout."""
    nic = Nic(interface="enp1s0f0np0", speed_bits_per_s=200_000_000_000, rdma_device="rocep1s0f0")
    gpu = Gpu(index=0, kind="gb10", memory_bytes=119 * 2**30, driver="580.95")
    hosts = [Host(name=f"spark{n}", cores=20, memory_bytes=119 * 2**30, gpus=[gpu], nics=[nic]) for n in (1, 2)]
    return plan(
        inventory=Inventory(hosts=hosts, device="cuda", launcher="docker"),
        layout=Layout(tp=2),
        placements=[Placement(process=f"rank{n}", host=f"spark{n + 1}", ranks=[n], gpus=[0]) for n in (0, 1)],
        rejected=[Rejection(layout=Layout(tp=1), reason="weights of 126.0 GiB do not fit in 119.0 GiB")],
    )


def events(*, failed: bool = False) -> list[Event]:
    """A whole life, or one that ends in the death of a worker."""

    def at(seconds: float, message: str, **fields: Any) -> Event:
        return Event(at=START + timedelta(seconds=seconds), message=message, **fields)

    begun = [
        at(0, "layout tp1 chosen", state="planned"),
        at(0.3, "model found in the cache", state="staged"),
        at(0.5, "1 process started", state="launching", process="api", host="laptop", data={"pid": 4711}),
    ]
    if failed:
        quote = {"lines": ["Traceback (most recent call last):", "RuntimeError: out of memory"]}
        return [*begun, at(9.0, "api died", state="failed", process="api", host="laptop", data=quote)]
    return [
        *begun,
        at(12.8, "first real token", state="ready"),
        at(13.6, "2 of 2 rules passed", state="verified"),
        at(75.0, "3 points measured", state="benched"),
        at(81.0, "drained", state="stopped"),
    ]


def findings() -> list[Finding]:
    """One of each verdict."""
    evidence = Evidence(text="The capital of France is Paris.", file="logs/api.log", line=12)
    return [
        Finding(rule="known_answer", status="passed", evidence=evidence),
        Finding(rule="gid_index", status="not_evaluated", cause="no RDMA device on laptop", severity="info"),
        Finding(
            rule="context_length", status="failed", cause="2,048 asked, 1,024 served", fix="--set max_model_len=2048"
        ),
    ]


def streams(users: int, requests: int, *, speed: float = 1.0, failed: int = 0) -> list[Stream]:
    """The requests of a point as `overspan.bench` holds them, the last of them failed."""
    chance = random.Random(f"0-{users}")
    made = []
    for index in range(requests):
        send = index * 10.0
        first = send + 44 * users**0.8 * chance.lognormvariate(0, 0.25) / speed
        gap = 19 * users**0.25 * chance.lognormvariate(0, 0.06) / speed
        stamps = [round((first + gap * token) * NS_PER_MS) + STARTED_NS for token in range(OUTPUT_TOKENS)]
        stream = Stream(index, b"", round(send * NS_PER_MS) + STARTED_NS)
        stream.send_ns, stream.stamps, stream.end_ns = stream.intended_ns, array("q", stamps), stamps[-1] + 400_000
        stream.usage = {"prompt_tokens": 128, "completion_tokens": OUTPUT_TOKENS}
        stream.finish, stream.error = "length", "timeout" if index >= requests - failed else None
        made.append(stream)
    return made


def request_lines(users: int, requests: int, *, speed: float = 1.0, failed: int = 0) -> list[str]:
    """The lines of a requests-<users>.jsonl, as `overspan.bench` writes them."""
    return list(records.request_lines(streams(users, requests, speed=speed, failed=failed), STARTED_NS))


def curves(users: int, requests: int = 32, *, speed: float = 1.0) -> dict[str, Curve]:
    """What the report draws of these requests."""
    return request_curves(records.read_requests(request_lines(users, requests, speed=speed), "here"))


def point(users: int, requests: int = 32, *, failed: int = 0, speed: float = 1.0, **changes: Any) -> BenchPoint:
    """A point whose summary agrees with `request_lines`."""
    times = Samples.of(streams(users, requests, speed=speed, failed=failed))
    e2e = summary(times.e2e)
    rate = users * OUTPUT_TOKENS * 1000 / (e2e.mean or 1.0)
    fields: dict[str, Any] = {
        "concurrency": users,
        "requests": RequestCounts(
            planned=requests, ok=requests - failed, failed=failed, errors={"timeout": failed} if failed else {}
        ),
        "ttft_ms": summary(times.ttft),
        "tpot_ms": summary(times.tpot),
        "itl_ms": times.itl.summary(),
        "e2e_ms": e2e,
        "output_tokens_per_s": rate,
        "total_tokens_per_s": rate * 3,
        "duration_s": requests * OUTPUT_TOKENS / rate,
    }
    return BenchPoint(**{**fields, **changes})


def bench(points: list[BenchPoint]) -> BenchResult:
    """A bench of these points."""
    return BenchResult(
        base_url="http://127.0.0.1:8000/v1",
        model="tiny-135m",
        started_at="2026-11-22T16:00:14Z",
        workload=Workload(
            concurrency=[item.concurrency for item in points],
            requests=32,
            input_tokens=128,
            output_tokens=OUTPUT_TOKENS,
        ),
        points=points,
        overspan_version="0.1.0",
    )


def process() -> ProcessSpec:
    """An API server with arguments that need quoting."""
    return ProcessSpec(
        name="api",
        host="laptop",
        argv=["/cache/engine/bin/vllm", "serve", "/models/tiny 135m", "--enforce-eager", "--port", "8000",
              "--override-generation-config", '{"temperature": 0}'],
        env={"OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"},
        secrets=["HF_TOKEN"],
        ranks=[0],
        ports={"api": 8000},
    )  # fmt: skip


def run(name: str = "tiny", *, speed: float = 1.0, users: tuple[int, ...] = (1, 4, 16), **changes: Any) -> RunDocuments:
    """A run with everything; `changes` replace documents."""
    fields: dict[str, Any] = {
        "name": name,
        "plan": plan(),
        "processes": [process()],
        "events": events(),
        "findings": findings(),
        "bench": bench([point(level, speed=speed) for level in users]),
        "latencies": {level: curves(level, speed=speed) for level in users},
    }
    return RunDocuments(**{**fields, **changes})
