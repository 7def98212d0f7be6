"""The instrument is calibrated before it measures: a short load against a server whose times are known."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Final

from overspan.bench import truth
from overspan.bench.load import ClosedLoop
from overspan.bench.loop import Loop
from overspan.bench.metrics import NS_PER_MS, Times, summary
from overspan.bench.process import helper
from overspan.bench.stream import Stream
from overspan.endpoint.target import make_target
from overspan.schema.errors import OverspanError
from overspan.schema.workload import MeanAndP99, SelfTest

TTFT_MS: Final = 100.0
ITL_MS: Final = 20.0
TOKENS: Final = 16
MOST_STREAMS: Final = 64
"""All of it ends within half a second; the truth server is Python and keeps its own times up to about here."""

ERROR_LIMIT: Final = 0.02
"""Of a true value: what Overspan promises (issue 5)."""


def calibrate(streams: int) -> SelfTest:
    """Measure a known server with up to 64 streams; errors are what the client read less the truth, milliseconds.

    Raises:
        OverspanError: the known server did not answer.
    """
    streams = max(1, min(streams, MOST_STREAMS))
    times = int(TTFT_MS * NS_PER_MS), int(ITL_MS * NS_PER_MS)
    process, ours = helper(truth.serve, *times, TOKENS)
    try:
        port = ours.recv()
        measured = _load(port, streams)
        ours.send("stop")
        known = ours.recv()
    except (EOFError, ConnectionError):
        raise OverspanError("the calibration's own server died", next="run it again") from None
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        ours.close()
        process.join(2)
        if process.is_alive():
            process.terminate()
    return compared(measured, known)


def _load(port: int, streams: int) -> list[Stream]:
    target = make_target(f"http://127.0.0.1:{port}/v1")
    head = target.head("/chat/completions")

    def message(user: int, _: int) -> bytes:
        body = json.dumps({"user": user}).encode()
        return b"%b%d\r\n\r\n%b" % (head, len(body), body)

    return Loop(target, ClosedLoop(streams, streams, message), timeout_s=5.0).run(whole=True)


def compared(measured: Sequence[Stream], known: dict[int, tuple[int, list[int]]]) -> SelfTest:
    """Compare each request with its truth; `reasons` tells what is off by more than the limit."""
    errors: dict[str, list[float]] = {"TTFT": [], "TPOT": []}
    true: dict[str, list[float]] = {"TTFT": [], "TPOT": []}
    for stream in measured:
        if stream.error is not None or stream.user not in known:
            raise OverspanError(f"the calibration's own server did not answer: {stream.error} {stream.detail}")
        asked, sent = known[stream.user]
        read, sure = Times.of(stream), Times.between(asked, array("q", sent), sent[-1], len(sent) - 1)
        for name, of_read, of_sure in (
            ("TTFT", read.ttft_ms, sure.ttft_ms),
            ("TPOT", read.tpot_ms, sure.tpot_ms),
        ):
            true[name].append(of_sure or 0.0)
            errors[name].append((of_read or 0.0) - true[name][-1])
    off = {name: summary(errors[name]) for name in errors}
    real = {name: summary(true[name]).mean for name in true}
    return SelfTest(
        streams=len(measured),
        true_ttft_ms=real["TTFT"],
        true_tpot_ms=real["TPOT"],
        ttft_error_ms=MeanAndP99(mean=off["TTFT"].mean, p99=off["TTFT"].p99),
        tpot_error_ms=MeanAndP99(mean=off["TPOT"].mean, p99=off["TPOT"].p99),
        reasons=[
            f"calibration: {name} read {off[name].mean:+.2f} ms off a true {real[name]:.2f} ms"
            for name in off
            if abs(off[name].mean or 0.0) > ERROR_LIMIT * (real[name] or 1.0)
        ],
    )
