"""A quantised twin in several layouts on this machine's GPUs, beside the reference that `reference.py` wrote.

    python twin_layouts.py TWIN REFERENCE.json --out DIR --layouts tp2,tep2,pp2,dep2 --modes eager,graphs

For each layout and mode a server is started and asked for the top token at each position of the reference's texts
(teacher-forced: agreement), and for greedy continuations (streams). DIR/twin.json is rewritten after each case, so that
nothing is lost when time runs out; DIR/logs.txt holds the last lines of each server's log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import engine  # type: ignore[import-not-found]  # beside this file

FLAGS = ["--served-model-name=twin", "--max-model-len=512", "--max-num-seqs=32", "--no-enable-prefix-caching"]
FLAGS += ["--kv-cache-memory-bytes=1073741824", "--gpu-memory-utilization=0.15", "--dtype=bfloat16"]
FLAGS += ["--cudagraph-capture-sizes", "1", "2", "4", "8", "16", "32"]
WITHOUT = "without-mend"
"""A mode: eager, with no plugin loaded; `without-mend-graphs` likewise with graphs."""
GIVE_UP = 4
"""After so many failures and no success the rest is not tried."""


def main() -> None:
    """Run the cases, some at once; each in servers of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("twin", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layouts", default="tp2,tep2,pp2,dep2")
    parser.add_argument("--modes", default=f"eager,{WITHOUT},graphs,{WITHOUT}-graphs")
    parser.add_argument("--name", default="twin.json", help="of the file of results")
    parser.add_argument("--at-once", type=int, default=5)
    parser.add_argument("--ready-s", type=float, default=200)
    given = parser.parse_args()
    reference = json.loads(given.reference.read_text())
    results: dict[str, Any] = {"versions": engine.versions(), "cases": []}
    writing = Lock()
    scratch = tempfile.mkdtemp()

    def case(number: int, layout: str, mode: str) -> None:
        log = Path(scratch, f"{layout}-{mode}.log")
        started = time.monotonic()
        with writing:
            hopeless = len(results["cases"]) >= GIVE_UP and all("error" in done for done in results["cases"])
        if hopeless:
            return
        found = _case(given.twin, reference, layout, mode, 18000 + 40 * number, log, given.ready_s)
        with writing:
            results["cases"].append({"layout": layout, "mode": mode, "seconds": time.monotonic() - started, **found})
            results["streams"] = _streams(results["cases"], reference)
            (given.out / given.name).write_text(json.dumps(results))
            with (given.out / "logs.txt").open("a") as logs:
                logs.write(f"==== {layout} {mode}\n{log.read_text(errors='replace')[-60_000:]}\n")
            print(layout, mode, {name: value for name, value in found.items() if name != "streams"}, flush=True)

    pairs = [(layout, mode) for mode in given.modes.split(",") for layout in given.layouts.split(",")]
    pairs = [(layout, mode) for layout, mode in pairs if not mode.startswith(WITHOUT) or layout.startswith("tp")]
    with ThreadPoolExecutor(given.at_once) as pool:
        for begun in [pool.submit(case, number, *pair) for number, pair in enumerate(pairs)]:
            begun.result()


def _case(
    twin: Path, reference: dict[str, Any], layout: str, mode: str, port: int, log: Path, ready_s: float
) -> dict[str, Any]:
    flags = [*FLAGS, *engine.layout_flags(layout)]
    if not mode.endswith("graphs"):
        flags.append("--enforce-eager")
    if layout.startswith("d"):
        flags.append(f"--data-parallel-rpc-port={port + 20}")
    env = {"VLLM_PLUGINS": "none" if mode.startswith(WITHOUT) else "overspan"}
    try:
        with engine.quiet(alone=False), engine.serving(twin, flags, port, log, ready_s, env) as url:
            started = time.monotonic()
            found = _agreement(url, reference)
            streams = _continuations(url, reference)
            mended = [
                line.strip()[-160:] for line in log.read_text(errors="replace").splitlines() if "overspan" in line
            ]
            return {**found, "streams": streams, "asked_s": time.monotonic() - started, "plugin": mended[:8]}
    except (engine.EngineFailed, KeyError, TypeError, ValueError) as error:
        # A reply that is no answer is a result too: the other cases go on.
        return {"error": f"{type(error).__name__}: {error}"}


def _agreement(url: str, reference: dict[str, Any]) -> dict[str, Any]:
    """How often the engine's top token is the reference's, given the reference's text up to there."""
    texts = [prompt + more for prompt, more in zip(reference["prompts"], reference["continuations"], strict=True)]

    def best(text: list[int]) -> list[int]:
        body = {"model": "twin", "prompt": text, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        scored = engine.ask(url, body)["choices"][0]["prompt_logprobs"]
        return [int(next(token for token, one in at.items() if one["rank"] == 1)) for at in scored[1:]]

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(best, texts))
    lost: list[float] = []
    positions = same = 0
    for text, expected, margins in zip(got, reference["best"], reference["margins"], strict=True):
        for token, right, margin in zip(text, expected[:-1], margins[:-1], strict=True):
            positions += 1
            same += token == right
            if token != right:
                lost.append(margin)
    return {
        "positions": positions,
        "same": same,
        "agreement": same / positions,
        "margins_where_not": {"median": statistics.median(lost), "largest": max(lost)} if lost else None,
    }


def _continuations(url: str, reference: dict[str, Any]) -> list[list[int]]:
    """Greedy continuations of all prompts, asked at once."""
    count = len(reference["continuations"][0])

    def stream(prompt: list[int]) -> list[int]:
        body = {"model": "twin", "prompt": prompt, "max_tokens": count, "temperature": 0}
        answer = engine.ask(url, {**body, "ignore_eos": True, "return_token_ids": True})
        return list(answer["choices"][0]["token_ids"])

    with ThreadPoolExecutor(len(reference["prompts"])) as pool:
        return list(pool.map(stream, reference["prompts"]))


def _streams(cases: list[dict[str, Any]], reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Each pair of streams: how many are equal to the end, and the tokens before the first difference."""
    known = [("reference", reference["continuations"])]
    known += [(f"{case['layout']} {case['mode']}", case["streams"]) for case in cases if "streams" in case]
    pairs = []
    for at, (one, first) in enumerate(known):
        for other, second in known[at + 1 :]:
            lengths = [_common(a, b) for a, b in zip(first, second, strict=True)]
            equal = sum(length == len(a) for length, a in zip(lengths, first, strict=True))
            pairs.append(
                {
                    "of": [one, other],
                    "streams": len(first),
                    "equal": equal,
                    "median_common_tokens": statistics.median(lengths),
                }
            )
    return pairs


def _common(one: list[int], other: list[int]) -> int:
    """Tokens before the first difference."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


if __name__ == "__main__":
    main()
