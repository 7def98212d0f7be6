"""Take secrets out of text before it leaves the machine: by their shape, and by the name of what holds them."""

from __future__ import annotations

import re
from itertools import pairwise

GONE = b"[removed]"

# Python's engine, line by line over at most MOST_BYTES of a line; where a repetition could start anew at each of
# its own characters, it is bounded.
MOST_BYTES = 64 << 10
_NAME = rb"(?:[\w-]{0,40}[_-])?(?:token|secret|password|passwd|credential|(?:api|access|private)[_-]?key)"
_SHAPES = [
    rb"\bhf_[A-Za-z0-9]{8,}",
    rb"\bapi_org_[A-Za-z0-9]{8,}",
    rb"\bnvapi-[\w-]{8,}",
    rb"\bsk-[\w-]{8,}",
    rb"\bgh[pousr]_[A-Za-z0-9]{16,}",
    rb"\bgithub_pat_\w{16,}",
    rb"\bglpat-[\w-]{16,}",
    rb"\bxox[abprs]-[\w-]{8,}",
    rb"\bAKIA[0-9A-Z]{16}\b",
    rb"\beyJ[\w-]{8,2000}\.[\w-]{8,4000}\.[\w-]*",
]
_RULES: list[tuple[re.Pattern[bytes], bytes]] = [
    (re.compile(rb"(\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+", re.I), rb"\1" + GONE),
    (re.compile(rb"(\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}", re.I), rb"\1" + GONE),
    (re.compile(rb"(://)[^/\s:@'\"]{1,200}:[^/\s@'\"]{1,200}@"), rb"\1" + GONE + b"@"),
    (re.compile(rb"(://)[^/\s:@'\"]{8,200}@"), rb"\1" + GONE + b"@"),
    (re.compile(rb"([?&](?:X-Amz-[\w-]+|sig|signature|key|token|access_token|auth)=)[^&\s'\"]+", re.I), rb"\1" + GONE),
    (re.compile(rb"(--?" + _NAME + rb"[= ]\s*)(?!-)[^\s'\",]+", re.I), rb"\1" + GONE),
    (re.compile(rb"(--?" + _NAME + rb"['\"],\s*['\"])[^'\"]+", re.I), rb"\1" + GONE),
    (
        re.compile(rb"(\b" + _NAME + rb"['\"]?\s*[:=]\s*[\[(]?['\"]?)(?!None\b|null\b|\[removed)[^\s'\",;&}]+", re.I),
        rb"\1" + GONE,
    ),
    *((re.compile(shape), GONE) for shape in _SHAPES),
]
_KEY_BLOCK = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_END = re.compile(rb"-----END [A-Z ]*PRIVATE KEY-----")


class Redactor:
    """Takes secrets out of lines, in order; `values` are secrets known by name, gone wherever they stand."""

    def __init__(self, values: tuple[str, ...] = ()) -> None:
        self._values = [value.encode() for value in values if len(value) >= 6]
        self._in_key = False
        self.removed = 0

    def line(self, line: bytes) -> bytes:
        """One line without its secrets."""
        if self._in_key:
            self._in_key = _KEY_END.search(line) is None
            return b""
        if _KEY_BLOCK.search(line):
            self._in_key = _KEY_END.search(line) is None
            self.removed += 1
            return GONE + b"\n"
        clean = line if len(line) <= MOST_BYTES else line[:MOST_BYTES] + b" [cut]\n"
        for value in self._values:
            clean = clean.replace(value, GONE)
        for pattern, replacement in _RULES:
            clean = pattern.sub(replacement, clean)
        self.removed += clean != line
        return clean


def secrets_in(document: object) -> set[str]:
    """Values of a JSON document that stand under a secret's name, or after its flag in a list of arguments."""
    if isinstance(document, dict):
        named = {value for key, value in document.items() if isinstance(value, str) and is_secret_name(str(key))}
        return named.union(*(secrets_in(value) for value in document.values()))
    if isinstance(document, list):
        after = {
            value
            for flag, value in pairwise(document)
            if isinstance(flag, str) and isinstance(value, str) and flag.startswith("-") and is_secret_name(flag)
        }
        return after.union(*(secrets_in(value) for value in document))
    return set()


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return re.search(_NAME + rb"$", name.encode(), re.I) is not None
