"""Wait for what must come, and fail with what was seen when it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def until(look: Callable[[], Value], what: str, timeout_s: float = 90.0) -> Value:
    """The first true value that `look` gives."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {timeout_s:g} s; last seen: {value!r}")
        time.sleep(0.05)
