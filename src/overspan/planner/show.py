"""The planner's answer for a person: a table, the sentence, the ceiling, and the experiment to make."""

from __future__ import annotations

from typing import Any

from overspan.schema.units import count


def as_text(found: dict[str, Any]) -> str:
    """The answer of `answer.answer` as lines of text."""
    if "pairs" in found:
        return _pairs(found)
    lines = [_head(found), *_table(found.get("layouts", [found]))]
    front = found.get("front", [])
    if len(front) > 1:
        points = [f"{one['layout']} {one['interactivity']:.0f}/{one['tokens_per_s_per_gpu']:.0f}" for one in front]
        lines.append(f"* Pareto front, tok/s a user / tok/s a GPU: {', '.join(points)}")
    lines += ["", f"{found['layout']}: {found['explain']}", _bound(found)]
    lines += [found["tell_apart"]] if found["tell_apart"] else []
    lines += [f"note: {note}" for note in found["notes"]]
    rejected = found.get("rejected", [])
    lines += [f"rejected {len(rejected)} layouts, for example:"] if rejected else []
    lines += [f"  {item['layout']}: {item['reason']}" for item in rejected[:3]]
    return "\n".join(lines)


def _head(found: dict[str, Any]) -> str:
    load = found["demand"]
    users = count(load["concurrency"], "user")
    return f"{found['model']} on {found['inventory']}: {users}, {load['isl']:.0f} tokens in, {load['osl']:.0f} out"


def _table(shown: list[dict[str, Any]]) -> list[str]:
    width = max(12, *(len(item["layout"]) + 2 for item in shown))
    head = f"{'layout':<{width}}{'GPUs':>5}{'TPOT ms':>20}{'TTFT ms':>24}{'tok/s':>9}{'tok/s/GPU':>11}  bound"
    return [head, *(_row(item, width) for item in shown)]


def _row(item: dict[str, Any], width: int) -> str:
    tpot, ttft = item["interval"]["tpot_ms"], item["interval"]["ttft_ms"]
    marks = ("" if item["meets_slo"] else "  over the limits") + ("  *" if item["pareto"] else "")
    head = f"{item['layout']:<{width}}{item['gpus']:>5}{item['tpot_ms']:>8.1f} ({tpot[0]:.1f}-{tpot[1]:.1f})"
    return (
        head.ljust(width + 28)
        + f"{item['ttft_ms']:>6.0f} ({ttft[0]:.0f}-{ttft[1]:.0f})".ljust(22)
        + f"{item['output_tokens_per_s']:>8.0f}{item['tokens_per_s_per_gpu']:>11.0f}  {item['bound']}{marks}"
    )


def _bound(found: dict[str, Any]) -> str:
    share = found["terms"][found["bound"]] / found["tpot_ms"]
    reached = found["ceiling_tpot_ms"] / found["tpot_ms"]
    return (
        f"bound by {found['bound']} ({share:.0%} of a step); the ceiling is {found['ceiling_tpot_ms']:.2f} ms a token: "
        f"its bytes over the bandwidth of {found['gpus']} ranks, of which {reached:.0%} is reached"
    )


def _pairs(found: dict[str, Any]) -> str:
    """Pairs of prefill and decode workers."""
    head = f"{'workers':<28}{'GPUs':>5}{'TPOT ms':>9}{'TTFT ms':>9}{'tok/s':>9}  prefill busy"
    rows = [
        f"{item['label']:<28}{item['gpus']:>5}{item['tpot_ms']:>9.1f}{item['ttft_ms']:>9.0f}"
        f"{item['output_tokens_per_s']:>9.0f}  {item['prefill_busy']:.0%}"
        + ("" if item["meets"] else "  over the limits")
        for item in found["pairs"]
    ]
    return "\n".join([_head(found), head, *rows, *(f"note: {note}" for note in found["notes"])])
