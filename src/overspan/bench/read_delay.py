"""How long arrivals gather before they are read together: a wake-up costs more than a read; the kernel stamps them."""

from __future__ import annotations

from array import array
from typing import Final

_MOST_S: Final = 0.001
_LEAST_S: Final = 0.0001
"""A sleep of less costs more than it saves."""

_FROM: Final = 16
"""Requests in flight. Fewer have little to gather."""

_ENOUGH: Final = 8
"""Chunks of a stream. The first ones come as they can: a role and its first token leave together."""

_PLENTY: Final = 32
"""Events of one poll that show that there is no need to wait for more."""


class ReadDelay:
    """Kept under an eighth of the gap between chunks, else a stream's next one would join, and under a thousandth of
    the shortest request, else its user would idle.

    Attributes:
        events: of the last poll.
    """

    def __init__(self) -> None:
        self._gap_s = 0.0
        self._shortest_s = 1.0
        self.events = 0

    def gap(self, stamps: array[int]) -> None:
        """Learn the gap between chunks from a stream's stamps, nanoseconds; a few say nothing yet."""
        if len(stamps) >= _ENOUGH:
            self._gap_s = (stamps[-1] - stamps[0]) / (len(stamps) - 1) / 1e9

    def took(self, nanoseconds: int) -> None:
        """Learn how long a request took."""
        self._shortest_s = min(self._shortest_s, nanoseconds / 1e9)

    def pause_s(self, in_flight: int, limit_s: float) -> float:
        """Seconds to sleep before the next poll; 0 for none.

        Args:
            limit_s: until something is to be sent.
        """
        if self.events >= _PLENTY or in_flight < _FROM:
            return 0.0
        pause = min(_MOST_S, self._gap_s / 8, self._shortest_s / 1000, limit_s / 4)
        return pause if pause >= _LEAST_S else 0.0
