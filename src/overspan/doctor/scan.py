"""Read one log from end to end, in one pass and in bounded memory, and note what the rules look for.

Fast path: one automaton over every anchor runs over buffers of a few MiB; lines without an anchor are never looked at.
Slow path, for a line with an anchor: take its prefix off, try the patterns behind its anchors, and where a pattern
needs more than the line, try again with the neighbouring lines of the same stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

from overspan.doctor.book import READY_RULE, Probe, RuleBook
from overspan.doctor.lines import LogLine, parse
from overspan.doctor.patterns import compile_rule_pattern
from overspan.doctor.sources import LogSource, LogUnreadable, Readable, opened
from overspan.doctor.times import Stamp

BUFFER_BYTES = 4 << 20
VIEW_BYTES = 8 << 10
"""Of a line, this much before and after an anchor is looked at; longer lines are read in several views."""

AROUND_BYTES = 32 << 10
"""Kept before and after the part of a buffer under work, for neighbouring lines."""

BACK_LINES, AHEAD_LINES = 5, 7
"""Neighbours of the same stream that a wrapped message may reach; the corpus needs 3."""

_LOOK_LINES = 24
_SATURATED = 2000
"""Matches of one pattern, or anomalies, after which another of the same kind is only counted."""

_WRAPPED = range(40, 201)
"""Widths, in columns, at which a terminal, a mail or an issue wraps a line."""

_NARROW_LOOKS = 1000
"""Of one log, so many lines of such a width are looked at with their neighbours; more would make the scan slow."""

_LONG_QUOTE, _BEFORE_MATCH = 800, 200
"""Of a line longer than the first, only this much before the match is quoted."""

QUIET = frozenset({"DEBUG", "INFO", "SUCC"})
"""Levels at which nothing has failed, unless a rule says otherwise."""

_WIDE_TRIES = 100
_STREAMS = 64


@dataclass(slots=True)
class Hit:
    """A pattern found: where, when, on which stream, and the groups it named."""

    line: int
    text: str
    at: Stamp | None
    stream: str
    groups: dict[str, str]
    length: int


@dataclass(slots=True)
class PatternCount:
    """All hits of one pattern in one log: the first of each stream, how many, and the last line."""

    count: int = 0
    last_line: int = 0
    wide_tries: int = 0
    first: dict[str, Hit] = field(default_factory=dict)


@dataclass
class LogScan:
    """What one log holds. `problem` says why it could not be read (to its end)."""

    source: LogSource
    tallies: dict[tuple[int, str, int], PatternCount] = field(default_factory=dict)
    anomalies: dict[str, Hit] = field(default_factory=dict)
    anomaly_count: int = 0
    bytes_read: int = 0
    lines: int = 0
    last_text: str = ""
    problem: str | None = None


@dataclass(slots=True)
class _Buffer:
    """Bytes at hand: `begin` to `end` is under work, and `line` is the number of the line at offset 0."""

    data: bytes
    begin: int
    end: int
    line: int


def scan(source: LogSource, book: RuleBook) -> LogScan:
    """Read one log. Never raises for what a log holds: see `LogScan.problem`."""
    found = LogScan(source)
    reader = _Reader(book, found)
    try:
        with opened(source) as log:
            for buffer in _buffers(log, found):
                reader.work(buffer)
    except LogUnreadable as error:
        found.problem = str(error)
    return found


def _buffers(log: Readable, found: LogScan) -> Iterator[_Buffer]:
    carry, begin, line = b"", 0, 1
    while True:
        chunk = log.read(BUFFER_BYTES)
        found.bytes_read += len(chunk)
        data = carry + chunk
        if not chunk:
            if len(data) > begin:
                yield _Buffer(data, begin, len(data), line)
            _finish(found, data, line)
            return
        end = max(begin, len(data) - AROUND_BYTES)
        yield _Buffer(data, begin, end, line)
        keep = max(0, end - AROUND_BYTES)
        line += data.count(b"\n", 0, keep)
        carry, begin = data[keep:], end - keep


def _finish(found: LogScan, tail: bytes, line: int) -> None:
    found.lines = line + tail.count(b"\n") - (1 if tail.endswith(b"\n") or not tail else 0)
    last = tail[-VIEW_BYTES:].rstrip(b"\r\n \t").rsplit(b"\n", 1)[-1]
    found.last_text = _text(parse(last))


def _text(line: LogLine) -> str:
    return line.body.decode("utf-8", errors="replace").strip()


class _Reader:
    """The scan of one log."""

    def __init__(self, book: RuleBook, found: LogScan) -> None:
        self._book = book
        self._found = found
        self._awake = False
        self._narrow_looks = 0

    def work(self, buffer: _Buffer) -> None:
        """Note everything that begins in the part of the buffer under work."""
        data, place = buffer.data, buffer.begin
        number, counted = buffer.line, 0
        while place < buffer.end:
            calm = self._found.anomaly_count >= _SATURATED
            anchor = self._book.prefilter(calm, self._awake).search(data, place)
            if anchor is None or anchor.start() >= buffer.end:
                return
            start = anchor.start()
            number += data.count(b"\n", counted, start)
            counted = start
            if self._only_counts(data[start : anchor.end()], number):
                place = anchor.end()
                continue
            low = data.rfind(b"\n", max(0, start - VIEW_BYTES), start) + 1 or max(0, start - VIEW_BYTES)
            high = data.find(b"\n", start, start + VIEW_BYTES)
            high = min(len(data), start + VIEW_BYTES) if high < 0 else high
            self._candidate(data, low, high, number)
            place = max(high, start + 1)

    def _only_counts(self, anchor: bytes, number: int) -> bool:
        index = self._book.anchor_index.get(" ".join(anchor.decode("latin-1").lower().split()))
        owners = self._book.probes_of[index] if index is not None else ()
        if not owners:
            return False
        tallies = [self._found.tallies.get(self._book.probes[owner].key) for owner in owners]
        full = [tally for tally in tallies if tally is not None and tally.count >= _SATURATED]
        if len(full) < len(owners):
            return False
        for tally in full:
            tally.count += 1
            tally.last_line = number
        return True

    def _candidate(self, data: bytes, low: int, high: int, number: int) -> None:
        line = parse(data[low:high])
        found = self._book.anchor_set.found(line.body)
        alone = _Window([(number, line)])
        narrow = line.width in _WRAPPED and line.level not in QUIET and self._narrow_looks < _NARROW_LOOKS
        self._narrow_looks += narrow
        around = _around(data, low, high, number) if narrow or not found else None
        unwrapped = around.unwrapped() if around is not None else []
        whole = b"\n".join(window.line_of(number) for window in unwrapped)
        owners = self._owners(found)
        wide = [owner for owner in owners if not self._try(owner, alone, number, whole) and self._may_widen(owner)]
        if around is not None:
            # An anchor itself may run over the line's end.
            texts = [around.text, *(window.text for window in unwrapped)]
            more = self._owners(index for text in texts for index in self._book.anchor_set.found(text))
            wide += sorted(more - owners)
        if wide:
            around = around or _around(data, low, high, number)
            for owner in wide:
                any(self._try(owner, window, number, whole) for window in (around, *unwrapped))
        self._anomaly(line, number)

    def _owners(self, anchors: Iterable[int]) -> set[int]:
        return {owner for index in anchors for owner in self._book.probes_of[index]}

    def _may_widen(self, owner: int) -> bool:
        tally = self._found.tallies.setdefault(self._book.probes[owner].key, PatternCount())
        tally.wide_tries += 1
        return tally.wide_tries <= _WIDE_TRIES

    def _try(self, owner: int, window: _Window, number: int, whole: bytes) -> bool:
        probe = self._book.probes[owner]
        low, high = window.span_of(number)
        for match in probe.pattern.finditer(window.text):
            if match.start() > high:
                return False
            if match.end() > low:
                return self._note(probe, window, match, whole)
        return False

    def _note(self, probe: Probe, window: _Window, match: re.Match[bytes], whole: bytes) -> bool:
        number, line = window.line_at(match.start())
        if probe.rule != READY_RULE:
            touched = window.lines_of(match) + b"\n" + whole
            rule = self._book.rules[probe.rule]
            forbids = map(compile_rule_pattern, rule.forbid)
            if self._book.harmless.search(touched) or any(pattern.search(touched) for pattern in forbids):
                return False
            self._awake |= bool(rule.recovered_by)
            if line.level in QUIET and probe.kind in {"match", "hints"} and not rule.speaks_quietly:
                return False
        tally = self._found.tallies.setdefault(probe.key, PatternCount())
        if number != tally.last_line:
            tally.count += 1
            tally.last_line = max(tally.last_line, number)
        if line.stream not in tally.first and len(tally.first) < _STREAMS:
            named = cast("dict[bytes, bytes | None]", match.groupdict())
            groups = {key.decode(): value.decode(errors="replace") for key, value in named.items() if value}
            at = line.at if line.at is not None else window.time_near(number)
            length = match.end() - match.start()
            tally.first[line.stream] = Hit(number, window.quote(match), at, line.stream, groups, length)
        return True

    def _anomaly(self, line: LogLine, number: int) -> None:
        if line.level in QUIET or line.level.startswith("WARN") or self._found.anomaly_count >= _SATURATED:
            return
        if line.level not in {"ERROR", "CRITICAL", "FATAL"} and self._book.anomaly.search(line.body) is None:
            return
        self._found.anomaly_count += 1
        known = self._found.anomalies.get(line.stream)
        text = _text(line)
        names_nothing = known is not None and (known.text.startswith("Traceback (most recent") or not known.text)
        if known is not None and names_nothing and "Error" in text and not text.startswith(("File ", "raise ")):
            known.text, known.line = text, number
        elif known is None and len(self._found.anomalies) < _STREAMS:
            self._found.anomalies[line.stream] = Hit(number, text, line.at, line.stream, {}, 0)


class _Window:
    """Lines of one stream, joined by line ends, and the way back from an offset to a line."""

    def __init__(self, lines: list[tuple[int, LogLine]], glue: list[bytes] | None = None) -> None:
        self._lines = lines
        self._starts: list[int] = []
        glue = glue or [b"\n"] * (len(lines) - 1)
        text = bytearray()
        for (_, line), end in zip(lines, [*glue, b""], strict=True):
            self._starts.append(len(text))
            text += line.body + end
        self.text = bytes(text)

    def unwrapped(self) -> list[_Window]:
        """The same lines with what a wrap at the width of the longest took apart put together again.

        Once as if wrapped between words (the next word had no room), once as if cut anywhere (the line is full).
        """
        lines = [line for _, line in self._lines]
        # A single long word, such as an address, overhangs.
        width = max((line.width for line in lines if b" " in line.body), default=0)
        if width not in _WRAPPED:
            return []
        between, anywhere = [], []
        for one, after in pairwise(lines):
            word = len(after.body.split(b" ", 1)[0])
            goes_on = not (after.level or after.is_record)
            between.append(b" " if goes_on and one.width + 1 + word > width else b"\n")
            anywhere.append(b"" if goes_on and one.width == width else b"\n")
        return [_Window(self._lines, glue) for glue in (between, anywhere) if set(glue) - {b"\n"}]

    def span_of(self, number: int) -> tuple[int, int]:
        for start, (own, line) in zip(self._starts, self._lines, strict=True):
            if own == number:
                return start, start + len(line.body)
        return 0, len(self.text)

    def line_of(self, number: int) -> bytes:
        low, high = self.span_of(number)
        end = self.text.find(b"\n", high)
        return self.text[self.text.rfind(b"\n", 0, low) + 1 : end if end >= 0 else len(self.text)]

    def line_at(self, offset: int) -> tuple[int, LogLine]:
        return self._lines[max(index for index, start in enumerate(self._starts) if start <= offset)]

    def lines_of(self, match: re.Match[bytes]) -> bytes:
        low = max(start for start in self._starts if start <= match.start())
        high = self.text.find(b"\n", max(match.start(), match.end() - 1))
        return self.text[low : high if high >= 0 else len(self.text)]

    def quote(self, match: re.Match[bytes]) -> str:
        touched = self.lines_of(match)
        if len(touched) > _LONG_QUOTE:
            begin = match.start() - max(start for start in self._starts if start <= match.start())
            low = max(0, begin - _BEFORE_MATCH)
            touched = (b"... " if low else b"") + touched[low:]
        return "\n".join(part.strip() for part in touched.decode("utf-8", "replace").splitlines())

    def time_near(self, number: int) -> Stamp | None:
        before = [line.at for own, line in self._lines if own <= number and line.at is not None]
        return before[-1] if before else None


def _around(data: bytes, low: int, high: int, number: int) -> _Window:
    """The line from `low` to `high` with the neighbours of its stream; a line with no prefix goes on with the last."""
    before = data[max(0, low - AROUND_BYTES) : low - 1].rsplit(b"\n", _LOOK_LINES)[-_LOOK_LINES:] if low else []
    after = data[high + 1 : high + AROUND_BYTES].split(b"\n", _LOOK_LINES)[:_LOOK_LINES] if high < len(data) else []
    raw = [*(line[-VIEW_BYTES:] for line in before), data[low:high], *(line[:VIEW_BYTES] for line in after)]
    lines = [(number - len(before) + index, parse(line)) for index, line in enumerate(raw)]
    streams, current = [], ""
    for _, line in lines:
        # A line with no prefix, or with the outer part of it only, goes on with what the last prefixed line began.
        if line.stream != current and not f"{current} ".startswith(f"{line.stream} ".lstrip()):
            current = line.stream
        streams.append(current)
    same = [index for index, stream in enumerate(streams) if stream == streams[len(before)]]
    place = same.index(len(before))
    return _Window([lines[index] for index in same[max(0, place - BACK_LINES) : place + AHEAD_LINES + 1]])
