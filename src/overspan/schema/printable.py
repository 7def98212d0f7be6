"""Text of others (a model's answer, an engine's log, a server's reply) that cannot drive a terminal or hide what it is.

Sources: ECMA-48 (control functions: C0, C1, CSI, OSC); Unicode Standard Annex 9 (explicit bidirectional formatting).
"""

from __future__ import annotations

import re
from typing import Final

_COLOUR: Final = re.compile("\x1b\\[[0-9;:]*m")
"""SGR: the one sequence that logs hold for a reader's sake."""

_DRIVING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but the tab and the line's end; what turns the order of letters; halves of surrogate pairs."""


def printable(text: str) -> str:
    """The text with colours left out, and each control as its escape: `\\u001b]52;...`, which JSON reads back.

    The same text comes back where it holds none. A line that ends with CR LF ends with LF.
    """
    if text.isascii() and text.isprintable():
        return text
    return _DRIVING.sub(lambda found: f"\\u{ord(found[0]):04x}", _COLOUR.sub("", text).replace("\r\n", "\n"))
