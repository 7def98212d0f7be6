"""One line of a log without what loggers, containers and schedulers put before its message.

Takes off ANSI colour, time stamps, levels, source places and the marks that tell ranks apart, and keeps what they say:
which stream the line belongs to, when it was written, at what level.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass

from overspan.doctor.patterns import compile_pattern, vocabulary
from overspan.doctor.times import Stamp, stamp_of

_ANSI = compile_pattern(r"\x1b(?:\[[0-9;?:]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}\x07|[@-_])")
_ANSI_AS_TEXT = compile_pattern(
    r"(?:\bESC|\^\[|\\(?:x1b|u001b|033|e)|\xe2\x90\x9b)?\[(?:0|3\d|9\d|\d{1,2}(?:;\d{1,3}){1,4})m", fold_case=False
)
"""Colour whose escape character a collector, a browser or a paste has dropped or written out."""
_LETTERS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "C": "CRITICAL", "F": "FATAL"}
"""Levels as glog, Ray and torch write them: `[2026-11-22 20:19:11,144 I 7 7]`, `E1122 14:28:37.06 7 a.cc:3]`."""

_QUOTES = (
    (b"\xe2\x80\x98", b"'"),
    (b"\xe2\x80\x99", b"'"),
    (b"\xe2\x80\x9c", b'"'),
    (b"\xe2\x80\x9d", b'"'),
    (b"`", b"'"),
)

_CLOCK = r"(?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?:[.,](?P<f>\d{1,9}))?"
_ISO = r"(?P<y>\d{4})[-/](?P<mo>\d\d)[-/](?P<d>\d\d)[T ]" + _CLOCK + r"(?P<zone>Z|[+-]\d\d:?\d\d| UTC)?"
_PREFIXES = [
    re.compile(pattern.replace("%ISO%", _ISO).replace("%CLOCK%", _CLOCK).encode())
    for pattern in vocabulary()["prefixes"]
]
_NCCL_ID = re.compile(r":\d+:\d+$")
_MOST_TOKENS = 10
_PREFIX_BYTES = 400


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line's message and what its prefix said.

    `at` is the stamp of the prefix that says the most; `stream` may be empty; `width` is the length with the prefix,
    without colour.
    """

    body: bytes
    stream: str = ""
    at: Stamp | None = None
    level: str = ""
    width: int = 0

    @property
    def is_record(self) -> bool:
        """Whether NCCL wrote the line: every line of its own names host, process and thread."""
        return _NCCL_ID.search(self.stream) is not None


def plain(raw: bytes) -> bytes:
    """The line without colour and with one kind of quotes; a progress bar keeps only what it last showed."""
    text = raw.rstrip(b"\r\n")
    if text.startswith(b'{"log":"') or text.startswith(b'{"log": "'):
        text = _of_json_file(text)
    if b"\x1b" in text:
        text = _ANSI.sub(b"", text)
    if b"m" in text and b"[" in text:
        text = _ANSI_AS_TEXT.sub(b"", text)
    if b"\r" in text:
        text = max(text.split(b"\r"), key=len)
    if b"\x00" in text:
        text = text.replace(b"\x00", b"")
    for fancy, simple in _QUOTES:
        if fancy in text:
            text = text.replace(fancy, simple)
    return text


def _of_json_file(text: bytes) -> bytes:
    """The message of a line of Docker's `json-file` logs; the line itself where it is none, or cut."""
    try:
        said = json.loads(text)["log"]
    except (ValueError, KeyError):
        return text
    return said.encode().rstrip(b"\r\n") if isinstance(said, str) else text


@functools.lru_cache(maxsize=128)
def parse(raw: bytes) -> LogLine:
    """Take a line's prefix apart. Kept for a while: lines in a row are looked at as each other's surroundings."""
    text = plain(raw)
    place, streams, level = 0, [], ""
    at: Stamp | None = None
    end = min(len(text), _PREFIX_BYTES)
    for _ in range(_MOST_TOKENS):
        while place < end and text[place : place + 1] in (b" ", b"\t"):
            place += 1
        found = _prefix_at(text, place, end)
        if found is None:
            break
        said = {key: value.decode("latin-1") for key, value in found.groupdict().items() if value}
        if "id" in said:
            streams.append(said["id"].strip(" :*"))
        stamp = stamp_of(said)
        # A collector writes its own stamp before the program's: the first counts, unless a later one says more.
        if stamp is not None and (at is None or stamp.kind > at.kind):
            at = stamp
        # The innermost level counts: a collector writes its own (stderr is ERROR, stdout INFO) before the program's.
        level = said.get("level", "") or _LETTERS.get(said.get("letter", ""), "") or level
        place = found.end()
    return LogLine(text[place:], " ".join(streams), at, level, len(text))


def _prefix_at(text: bytes, place: int, end: int) -> re.Match[bytes] | None:
    matches = (pattern.match(text, place, end) for pattern in _PREFIXES)
    return next((found for found in matches if found is not None and found.end() > place), None)
