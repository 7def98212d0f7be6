"""Take secrets out of text before it leaves the machine: by their shape, and by the name of what holds them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from overspan.doctor.patterns import compile_pattern
from overspan.schema.secrets import is_secret
from overspan.schema.yamlio import plain

GONE = b"[removed]"

MOST_BYTES = 64 << 10
"""Of a longer line only this much is kept."""

_NAME = (
    rb"(?:[\w-]{0,40}[_-]|[A-Za-z]{0,20})?(?:token|secret|password|passwd|passphrase|credentials?"
    rb"|(?:api|access|account|private|shared|encryption)[_-]?key)"
)
_QUOTE = rb"(?:\\{0,7}['\"])?"


def _compiled(patterns: Iterable[str]) -> list[re.Pattern[bytes]]:
    parts = (pattern.encode().replace(b"%NAME%", _NAME).replace(b"%QUOTE%", _QUOTE) for pattern in patterns)
    return [re.compile(part) for part in parts]


_FORMS = plain(Path(__file__).with_name("redact.yaml").read_text("utf-8"))
_RULES = [
    *((pattern, rb"\1" + GONE) for pattern in _compiled(_FORMS["after"])),
    *((shape, GONE) for shape in _compiled(_FORMS["shapes"])),
]
# Without one of these no rule can match; one automaton over them is many times faster than the rules.
_MAY_HOLD = compile_pattern(
    r"(?:token|secret|passw(?:or)?d|passphrase|credentials?|key)(?:[^a-z]|$)|authorization|bearer|basic|cookie|auth"
    r"|://|[?&#](?:X-Amz|sig)|pwd|\s-u|--user|--proxy-user|sshpass|login"
)
_SHAPED = compile_pattern(
    r"hf_|api_org_|nvapi-|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|eyJ", fold_case=False
)
_KEY_BLOCK = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_END = re.compile(rb"-----END [A-Z ]*PRIVATE KEY-----")
_COLOUR = re.compile(rb"\x1b\[[0-9;?:]{0,40}[ -/]{0,4}[@-~]")
# A name whose value stands on the next line: Kubernetes' `- name: X` / `value: y`, a folded header, YAML's `X: >-`.
_NAME_ALONE = re.compile(
    rb"(?:\bname:\s*['\"]?" + _NAME + rb"['\"]?|\b" + _NAME + rb"['\"]?\s*:\s*[>|]?[-+]?|authorization['\"]?\s*:"
    rb"(?:\s*(?:bearer|basic))?)\s*$",
    re.I,
)
_VALUE_ALONE = re.compile(
    rb"^(\s*(?:-\s+)?(?:value:\s*)?['\"]?)(?:(?:bearer|basic)\s+)?[^\s'\":]{6,}(['\"]?,?\s*)$", re.I
)


class Redactor:
    """Takes secrets out of lines, in order; `values` are secrets known by name, gone wherever they stand."""

    def __init__(self, values: tuple[str, ...] = ()) -> None:
        plain = [value.encode() for value in values if len(value) >= 6]
        # A Kubernetes secret and a basic header hold them in base64.
        self._values = [*plain, *(base64.b64encode(value) for value in plain)]
        self._in_key = self._value_follows = False
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
        short = line if len(line) <= MOST_BYTES else line[:MOST_BYTES] + b" [cut]\n"
        bare = _COLOUR.sub(b"", short)
        clean = self._without(bare)
        # Colour may stand inside a secret; where nothing was taken out it is kept.
        if clean == bare and (bare == short or self._without(short) == short):
            clean = short
        self._value_follows = _may_hold(bare[-200:]) and _NAME_ALONE.search(bare[-200:]) is not None
        self.removed += clean != line
        return clean

    def _without(self, line: bytes) -> bytes:
        clean = _VALUE_ALONE.sub(rb"\1" + GONE + rb"\2", line) if self._value_follows else line
        for value in self._values:
            clean = clean.replace(value, GONE)
        if _may_hold(clean):
            for pattern, replacement in _RULES:
                clean = pattern.sub(replacement, clean)
        return clean


def _may_hold(line: bytes) -> bool:
    return _MAY_HOLD.search(line) is not None or _SHAPED.search(line) is not None


def secrets_in(document: object) -> set[str]:
    """Values of a JSON document that stand under a secret's name, or after its flag in a list of arguments."""
    if isinstance(document, dict):
        named = {value for key, value in document.items() if isinstance(value, str) and is_secret(str(key))}
        return named.union(*(secrets_in(value) for value in document.values()))
    if isinstance(document, list):
        after = {
            value
            for flag, value in pairwise(document)
            if isinstance(flag, str) and isinstance(value, str) and flag.startswith("-") and is_secret(flag)
        }
        return after.union(*(secrets_in(value) for value in document))
    return set()
