"""Open files: every connection is one."""

from __future__ import annotations

import resource
from typing import Final

from overspan.schema.errors import InputError

_SPARE_FILES: Final = 64


def most_connections() -> int:
    """How many connections one process can have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard - _SPARE_FILES


def raise_open_files(connections: int) -> None:
    """Raise this process's limit of open files to what the connections need.

    Raises:
        InputError: the hard limit is lower.
    """
    needed = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fewer = f"lower --concurrency to {hard - _SPARE_FILES} or " if hard > _SPARE_FILES else ""
        raise InputError(
            f"{connections} connections need {needed} open files, and this shell's hard limit is {hard}",
            next=f"{fewer}raise the limit: ulimit -Hn {needed}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
