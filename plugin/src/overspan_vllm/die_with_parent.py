"""No process of the engine outlives its parent: `kill -9` of the API server orphans vLLM's engine core and workers.

The kernel kills each child that vLLM starts when the thread that started it ends (vLLM starts them in main threads).
The first process of the engine has its own parent to see to that. On by a switch, since a program of one's own may
start an engine in a thread that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from functools import cache

from overspan_vllm.mend import say

SWITCH = "OVERSPAN_DIE_WITH_PARENT"
_PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h."""


@cache
def arrange() -> None:
    """See to it in this process, if it is a child of the engine's, and in every one that it forks."""
    if os.environ.get(SWITCH) != "1" or not sys.platform.startswith("linux"):
        return
    os.register_at_fork(after_in_child=_die_with_parent)
    parent = multiprocessing.parent_process()
    if parent is not None:
        _die_with_parent()
        if os.getppid() != parent.pid:
            # It died before the kernel was asked.
            os.kill(os.getpid(), signal.SIGKILL)
    say("processes of this engine end with their parents")


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
