"""What NCCL sends over between hosts, read from its own log: RDMA, or sockets and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from overspan.doctor.patterns import vocabulary
from overspan.schema.finding import Evidence, Finding, Status

RULE: Final = "nccl.transport"
TITLE: Final = "NCCL's transport between hosts"

_CHANNEL: Final = re.compile(r" via NET/([A-Za-z][A-Za-z0-9_-]*)")
"""`Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA`: the only line that proves what a pair of ranks uses."""

_NETWORK: Final = re.compile(r"NCCL INFO Using network ([A-Za-z][A-Za-z0-9_-]*)")
"""What a process has at hand; it is said on one host too, where nothing goes over it."""

_GLOO: Final = re.compile(r"world_size=\d+ .*distributed_init_method=tcp://(\S+) backend=gloo")
"""vLLM's own line where there are no GPUs (vllm/distributed/parallel_state.py): gloo has sockets alone."""

_TOLD: Final = {"channel": _CHANNEL, "network": _NETWORK, "gloo": _GLOO}
_WORDS: Final = ("NET", "NCCL", "libibverbs", "backend=gloo")
"""Any line that tells something holds one of these."""


_REASONS: Final = vocabulary()["no_rdma"]

SLOWER: Final = "10 to 20 times slower than RDMA on the same cable"
"""Source: mark-ramsey-ri/vllm-dgx-spark (Ethernet in place of RoCE), docs/sources.md#two-sparks."""


def transport_of(logs: Mapping[str, Iterable[str]]) -> Finding:
    """Read the transport from the logs of all ranks, in one pass.

    Args:
        logs: the lines of each log by its name; NCCL's with NCCL_DEBUG=INFO, any prefixes before it.

    Returns:
        `passed` for RDMA or a vendor's network, and for gloo, which has nothing but sockets; a failed warning for
        NCCL over sockets, with the reason where a log has one; `not_evaluated` where no log tells.
    """
    seen, reasons = _read(logs)
    if "Socket" in seen["channel"]:
        return _sockets(seen["channel"], reasons)
    if seen["channel"]:
        name, evidence = next(iter(seen["channel"].items()))
        return _finding("passed", evidence, f"NCCL sends over {name}")
    if seen["gloo"]:
        address, evidence = next(iter(seen["gloo"].items()))
        what = f"without GPUs there is no NCCL: ranks talk over gloo, by sockets, and met at {address}"
        return _finding("passed", evidence, what)
    return _not_told(seen["network"], reasons)


def _read(logs: Mapping[str, Iterable[str]]) -> tuple[dict[str, dict[str, Evidence]], dict[int, Evidence]]:
    """The first line for each thing of each kind that is told, and for each reason by its place."""
    seen: dict[str, dict[str, Evidence]] = {kind: {} for kind in _TOLD}
    reasons: dict[int, Evidence] = {}
    for name, lines in logs.items():
        for number, line in enumerate(lines, 1):
            if not any(word in line for word in _WORDS):
                continue
            evidence = Evidence(text=line.strip()[:400], file=name, line=number)
            for kind, pattern in _TOLD.items():
                if found := pattern.search(line):
                    seen[kind].setdefault(found[1], evidence)
            for index in (index for index, reason in enumerate(_REASONS) if re.search(reason["line"], line)):
                reasons.setdefault(index, evidence)
    return seen, reasons


def _sockets(channels: dict[str, Evidence], reasons: dict[int, Evidence]) -> Finding:
    first = min(reasons, default=None)
    why, fix = "the log does not say why", "start again with --set env.NCCL_DEBUG=INFO and look for NET/IB"
    if first is not None:
        why, fix = _REASONS[first]["why"], _REASONS[first]["fix"]
    others = ", ".join(name for name in channels if name != "Socket")
    some = f"some ranks send over sockets, others over {others}" if others else "NCCL sends over sockets"
    found = _finding("failed", channels["Socket"], f"{some}, {SLOWER}: {why}", fix)
    return found.with_(severity="warning", role="sign", more=[reasons[first]] if first is not None else [])


def _not_told(networks: dict[str, Evidence], reasons: dict[int, Evidence]) -> Finding:
    if networks:
        name, evidence = next(iter(networks.items()))
        why = f"NCCL has network {name} at hand, and no line shows a channel over it: all ranks may be on one host, or "
        return _finding("not_evaluated", evidence, why + "are not connected yet")
    why = "the log holds no line of NCCL about its network; it writes them with NCCL_DEBUG=INFO"
    return _finding("not_evaluated", next(iter(reasons.values()), None), why, "--set env.NCCL_DEBUG=INFO")


def _finding(status: Status, evidence: Evidence | None, cause: str, fix: str | None = None) -> Finding:
    return Finding(
        rule=RULE, status=status, evidence=evidence, cause=cause, fix=fix, severity="info", title=TITLE, category="nccl"
    )
