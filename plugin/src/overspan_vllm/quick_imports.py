"""While vLLM is imported Python looks for garbage again and again among all that stays: a fifth of the imports' time.

A file beside the package (overspan_vllm.pth) imports this module at the start of Python, which puts the search off
until the engine calls its plugins: nearly all is imported then. For `vllm` alone, which calls them, and by a switch.
"""

from __future__ import annotations

import gc
import os
import sys

SWITCH = "OVERSPAN_QUICK_IMPORTS"


def begin() -> None:
    """Look for no garbage from now on, in `vllm` where the switch is on."""
    # Not sys.argv, which is not set yet.
    if os.environ.get(SWITCH) == "1" and any(word.endswith("/vllm") for word in sys.orig_argv[:2]):
        gc.disable()


def end() -> None:
    """Look for garbage again, but not among what was imported: it stays. Workers that are forked share it unwritten."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


begin()
