"""A run with drawn weights on a real engine: it answers, and it is measured as any run is."""

import json
from collections.abc import Callable

import pytest

from support.live import Live, Overspan

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_run_without_a_checkpoint_answers_and_is_measured(live: Callable[..., Live], overspan: Overspan) -> None:
    run = live("drawn", "--weights", "synthetic")
    assert (run.status["model"], run.status["state"], run.status["ready"]) == ("smollm2-135m", "ready", True)
    log = (run.folder.logs / "api.log").read_text()
    assert "Loading safetensors checkpoint shards" not in log
    load = ("--requests", "4", "--input-tokens", "32", "--output-tokens", "16")
    done = overspan("bench", run.folder.id, "--concurrency", "2", *load, "--json")
    (point,) = json.loads(done.stdout)
    assert (point["requests"]["ok"], point["requests"]["failed"]) == (4, 0)
