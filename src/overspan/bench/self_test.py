"""The instrument is calibrated before it measures: a short load against a server whose times are known."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from typing import Any, Final

from overspan.bench import truth
from overspan.bench.interrupts import deaf_to_ctrl_c
from overspan.bench.load import ClosedLoop
from overspan.bench.loop import Loop
from overspan.bench.metrics import NS_PER_MS, summary
from overspan.bench.stream import Stream
from overspan.endpoint.target import make_target
from overspan.schema.errors import OverspanError

TTFT_MS: Final = 100.0
ITL_MS: Final = 20.0
TOKENS: Final = 16
MOST_STREAMS: Final = 64
"""All of it ends within half a second; the truth server is Python and keeps its own times up to about here."""

ERROR_LIMIT: Final = 0.02
"""Of a true value: what Overspan promises (issue 5)."""


def calibrate(streams: int) -> dict[str, Any]:
    """Measure a known server with up to 64 streams; errors are what the client read less the truth, milliseconds.

    Raises:
        OverspanError: the known server did not answer.
    """
    streams = max(1, min(streams, MOST_STREAMS))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, int(TTFT_MS * NS_PER_MS), int(ITL_MS * NS_PER_MS), TOKENS)
    process = context.Process(target=truth.serve, args=arguments, daemon=True)
    with deaf_to_ctrl_c():
        process.start()
    theirs.close()
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

    return Loop(target, ClosedLoop(streams, streams, message), timeout_s=5.0).run_whole()


def compared(measured: Sequence[Stream], known: dict[int, tuple[int, list[int]]]) -> dict[str, Any]:
    """Compare each request with its truth; `reasons` tells what is off by more than the limit."""
    ttft, tpot, true_ttft, true_tpot = [], [], [], []
    for stream in measured:
        if stream.error is not None or stream.user not in known:
            raise OverspanError(f"the calibration's own server did not answer: {stream.error} {stream.detail}")
        asked, sent = known[stream.user]
        true_ttft.append((sent[0] - asked) / NS_PER_MS)
        true_tpot.append((sent[-1] - sent[0]) / NS_PER_MS / (len(sent) - 1))
        ttft.append((stream.stamps[0] - stream.send_ns) / NS_PER_MS - true_ttft[-1])
        read = (stream.stamps[-1] - stream.stamps[0]) / NS_PER_MS / (len(stream.stamps) - 1)
        tpot.append(read - true_tpot[-1])
    reasons = []
    for name, errors, true in (("TTFT", ttft, true_ttft), ("TPOT", tpot, true_tpot)):
        off, real = summary(errors).mean or 0.0, summary(true).mean or 1.0
        if abs(off) > ERROR_LIMIT * real:
            reasons.append(f"calibration: {name} read {off:+.2f} ms off a true {real:.2f} ms")
    of_ttft, of_tpot = summary(ttft), summary(tpot)
    return {
        "streams": len(measured),
        "true_ttft_ms": summary(true_ttft).mean,
        "true_tpot_ms": summary(true_tpot).mean,
        "ttft_error_ms": {"mean": of_ttft.mean, "p99": of_ttft.p99},
        "tpot_error_ms": {"mean": of_tpot.mean, "p99": of_tpot.p99},
        "reasons": reasons,
    }
