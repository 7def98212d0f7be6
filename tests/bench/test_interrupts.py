"""Ctrl-C at every moment of a bench: it ends, says so, and keeps what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.load import ClosedLoop
from overspan.bench.run import Bench
from overspan.schema.workload import Workload
from support import openai_server as fake
from support.openai_server import Send, Server, serving, steady
from support.waiting import until

SMALL = {"requests": 4, "input_tokens": 20, "output_tokens": 4, "timeout_s": 30.0}


def slow_from(number: int) -> fake.Behaviour:
    def behave(body: dict[str, Any], send: Send, asked: int) -> None:
        fake.answer(body, send, ttft_s=20.0 if asked >= number else 0.01, itl_s=0.001)

    return behave


def interrupted(server: Server, arguments: list[str], asked: int, *, whole_group: bool) -> tuple[int, str, str]:
    """A bench as a shell runs it, interrupted once so many requests were asked."""
    command = [sys.executable, "-m", "overspan", "bench", "--base-url", server.base_url, "--json", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as bench:
        until(lambda: len(server.requests) >= asked, f"{asked} requests", 60)
        (os.killpg if whole_group else os.kill)(bench.pid, signal.SIGINT)
        out, err = bench.communicate(timeout=60)
    return bench.returncode, out, err


def test_during_the_first_request_nothing_is_called_a_failure() -> None:
    with serving(slow_from(0)) as server:
        code, out, err = interrupted(server, ["-c", "2", "--no-calibration"], 1, whole_group=True)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert "does not answer" not in err


@pytest.mark.parametrize("whole_group", [True, False])
def test_every_process_of_a_load_ends_and_reports(whole_group: bool) -> None:
    with serving(slow_from(5)) as server:
        arguments = ["-c", "4", "-n", "40", "--shards", "2", "--no-calibration"]
        code, out, err = interrupted(server, arguments, 9, whole_group=whole_group)
    assert code == 130, err
    (point,) = json.loads(out)
    assert point["requests"]["ok"] == 4
    assert point["requests"]["errors"]["cancelled"] == 4
    assert point["requests"]["planned"] == 40
    assert "Traceback" not in err


def test_between_two_points_the_first_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = ClosedLoop.prepare

    def interrupt(load: ClosedLoop) -> None:
        if load.connections == 2:
            raise KeyboardInterrupt
        prepare(load)

    monkeypatch.setattr(ClosedLoop, "prepare", interrupt)
    workload = Workload.model_validate({**SMALL, "concurrency": [1, 2, 4]})
    with serving(steady()) as server:
        bench = Bench(server.base_url, None, workload, calibrated=False)
        result = bench.run()
    assert bench.interrupted
    assert [point.concurrency for point in result.points] == [1]
    assert "interrupted: 2 of the loads asked for were not begun" in result.notes


def test_during_the_calibration(tmp_path: Path) -> None:
    """The first request is answered; what follows is the calibration, half a second long."""
    with serving(steady(ttft_s=0.0)) as server:
        code, out, err = interrupted(server, ["-c", "64", "-n", "64"], 1, whole_group=True)
    assert code == 130
    assert "calibration" not in err
    assert "Traceback" not in err
    assert not out or json.loads(out)
