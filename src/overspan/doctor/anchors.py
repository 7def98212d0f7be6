"""Literals that a line must hold before a pattern can match it: what the fast scan looks for.

A pattern is mostly plain text. Its longest plain run is its anchor; a long run gives two, its halves, so that a message
wrapped in the middle by a terminal or a logger still shows one of them whole.
"""

from __future__ import annotations

SHORTEST = 4
"""Bytes: a shorter anchor would stop the scan at every other line."""

SPLIT_FROM = 24
"""Bytes: a longer run is split in two where it has a space in each half's reach."""

_EVERYDAY = frozenset(
    [
        "worker",
        "workers",
        "device",
        "devices",
        "nvidia",
        "gpu",
        "gpus",
        "cuda",
        "nccl",
        "vllm",
        "engine",
        "enginecore",
        "core",
        "client",
        "server",
        "manager",
        "weight",
        "weights",
        "model",
        "models",
        "file",
        "files",
        "found",
        "not",
        "the",
        "and",
        "for",
        "with",
        "from",
        "that",
        "must",
        "can",
        "could",
        "are",
        "was",
        "were",
        "has",
        "have",
        "does",
        "state",
        "state:",
        "failed",
        "failed:",
        "error",
        "error:",
        "command",
        "compiled",
        "only",
        "require",
        "required",
        "instance",
        "signal",
        "suitable",
        "input",
        "output",
        "size",
        "type",
        "name",
        "value",
        "path",
        "host",
        "port",
        "node",
        "nodes",
        "rank",
        "ranks",
        "group",
        "process",
        "running",
        "avg",
        "generation",
        "throughput:",
        "post",
        "get",
        "http",
        "net/ib",
        "ucx",
        "slurm",
        "docker",
        "shape",
        "current",
        "request",
        "requests",
        "pyxis:",
        "etcd",
        "nats",
        "config",
        "version",
        "using",
        "load",
        "loading",
        "loaded",
        "create",
        "created",
        "start",
        "started",
        "import",
        "kernel",
        "code",
        "status",
        "died",
        "bound",
        "fabric",
        "/run/",
        "max",
        "number",
        "set",
        "use",
        "used",
        "data",
        "time",
        "out",
        "memory",
        "token",
        "tokens",
        "cache",
        "layer",
        "layers",
        "backend",
        "method",
        "class",
        "info",
        "debug",
        "warning",
        "waiting",
        "seconds",
        "requests:",
        "running:",
        "usage",
        "rate",
        "more",
        "image",
        "fetch",
        "limit",
        "decode",
        "prefill",
        "status:",
        "status=",
        "support",
        "https://",
        "download",
        "endpoint",
        "line",
    ]
)
"""Words of ordinary logs: one or two of these alone would stop the scan at every other line."""

_BREAKS = frozenset("'\"`^$.|")
_REPEATS = frozenset(("*", "?", "{"))


class NoAnchor(ValueError):
    """A pattern without enough plain text."""


def anchors(pattern: str) -> list[str]:
    """The anchors of one pattern: every match of it on one line holds one of them.

    The longest plain run, in one piece or as halves; where there is none outside groups, the runs of a group's
    alternatives.

    Raises:
        NoAnchor: the pattern has no plain run of `SHORTEST` bytes, outside classes, that every match holds.
    """
    best = _best(pattern)
    if best:
        return _halves(best.lower())
    choices = [[_best(alternative) for alternative in _alternatives(group)] for group in _groups(pattern)]
    telling = max(choices, key=lambda runs: min(map(len, runs)), default=[])
    if telling and all(telling):
        return [half for run in telling for half in _halves(run.lower())]
    raise NoAnchor(f"needs at least {SHORTEST} plain characters in a row, and not only words of every log")


def _best(pattern: str) -> str:
    runs = [run.strip() for run in plain_runs(pattern)]
    telling = [run for run in runs if len(run) >= SHORTEST and (run.count(" ") > 1 or not _everyday(run))]
    return max(telling, key=len, default="")


def _everyday(run: str) -> bool:
    words = run.lower().split()
    return all(word in _EVERYDAY or len(word) < 3 for word in words)


def _groups(pattern: str) -> list[str]:
    """The insides of the outermost groups that must occur."""
    groups, place = [], 0
    while place < len(pattern):
        char = pattern[place]
        if char in "([":
            end = _close(pattern, place)
            if char == "(" and pattern[end : end + 1] not in _REPEATS:
                inside = pattern[place + 1 : end - 1]
                groups.append(inside.split(">", 1)[1] if inside.startswith("?P<") else inside.removeprefix("?:"))
            place = end
        else:
            place += 2 if char == "\\" else 1
    return groups


def _alternatives(group: str) -> list[str]:
    parts, start, place = [], 0, 0
    while place < len(group):
        if group[place] in "([":
            place = _close(group, place)
            continue
        if group[place] == "|":
            parts.append(group[start:place])
            start = place + 1
        place += 2 if group[place] == "\\" else 1
    return [*parts, group[start:]]


def _halves(run: str) -> list[str]:
    middle = len(run) // 2
    cuts = [place for place, char in enumerate(run) if char == " "]
    if len(run) < SPLIT_FROM or not cuts:
        return [run]
    cut = min(cuts, key=lambda place: abs(place - middle))
    left, right = run[:cut], run[cut + 1 :]
    usable = min(len(left), len(right)) >= 10 and not _everyday(left) and not _everyday(right)
    return [left, right] if usable else [run]


def plain_runs(pattern: str) -> list[str]:
    """Runs of plain characters of a pattern, outside groups and classes, in order."""
    runs: list[str] = []
    run, place = "", 0
    while place < len(pattern):
        char = pattern[place]
        if char in "([":
            runs, run = [*runs, run], ""
            place = _close(pattern, place)
        elif char == "\\":
            plain = pattern[place + 1 : place + 2]
            place += 2
            if plain and not plain.isalnum():
                run += plain
            else:
                runs, run = [*runs, run], ""
        else:
            runs, run, place = _step(pattern, place, runs, run)
    return [*runs, run]


def _step(pattern: str, place: int, runs: list[str], run: str) -> tuple[list[str], str, int]:
    char = pattern[place]
    if char in _REPEATS:
        end = pattern.index("}", place) if char == "{" else place
        return [*runs, run[:-1]], "", end + 1
    if char == "+":
        return [*runs, run], "", place + 1
    if char in _BREAKS or not char.isascii():
        return [*runs, run], "", place + 1
    return runs, run + char, place + 1


def _close(pattern: str, place: int) -> int:
    """The offset after the group or class that opens at `place`."""
    if pattern[place] == "[":
        end = pattern.find("]", place + 2)
        return len(pattern) if end < 0 else end + 1
    depth = 0
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif char == "[":
            place = _close(pattern, place) - 1
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return place
