"""What the benchmarks of a start to its first token have in common: Overspan's command, the question, the verdict."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import httpx

from overspan.store.run_folder import RunFolder

TARGET: Final = 1.15
"""Issues 2, 3 and 6: at most this many times what somebody takes by hand."""


def overspan(*arguments: str) -> None:
    """Run the command as a user does."""
    subprocess.run([sys.executable, "-m", "overspan", *arguments], check=True, stdout=subprocess.DEVNULL)


def ready_at(run: RunFolder) -> float:
    """When a run gave its first token, seconds since the epoch."""
    return next(event for event in run.events() if event.state == "ready").at.timestamp()


def first_token(url: str, model: str) -> bool:
    """Whether a token comes."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    try:
        return httpx.post(f"{url}/completions", json=body, timeout=60, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def tell(ours_s: Sequence[float], by_hand_s: Sequence[float]) -> None:
    """Print medians, their ratio and the verdict."""
    ours, by_hand = statistics.median(ours_s), statistics.median(by_hand_s)
    verdict = "met" if ours / by_hand <= TARGET else "MISSED"
    print(f"median {ours:.1f} s against {by_hand:.1f} s: {ours / by_hand:.2f}x (target at most {TARGET}x: {verdict})")
