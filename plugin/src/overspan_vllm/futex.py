"""Sleep until a word of shared memory changes: futex(2), which Python does not have."""

from __future__ import annotations

import ctypes
import platform
import sys

_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
"""Source: asm/unistd_64.h of x86-64, asm-generic/unistd.h."""
_WAIT, _WAKE, _EVERYBODY = 0, 1, 2**31 - 1
"""Source: linux/futex.h. Not private: the sleepers are other processes."""
_number = _SYS_FUTEX.get(platform.machine()) if sys.platform.startswith("linux") else None
_libc = ctypes.CDLL(None)

WORD_BYTES = 4
"""A word lies at a multiple of its size."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def exists() -> bool:
    """Whether this machine is one whose number for the call is known."""
    return _number is not None


def wait(word: ctypes.c_uint32, value: int, timeout_s: float | None = None) -> None:
    """Sleep while a word has a value, or for so long; it may also end for no reason: look again."""
    timeout = None
    if timeout_s is not None:
        timeout = ctypes.byref(_Timespec(int(timeout_s), int(timeout_s % 1 * 1e9)))
    _libc.syscall(_number, ctypes.byref(word), _WAIT, value, timeout, None, 0)


def wake(word: ctypes.c_uint32) -> None:
    """Wake all that wait for a word."""
    _libc.syscall(_number, ctypes.byref(word), _WAKE, _EVERYBODY, None, None, 0)
