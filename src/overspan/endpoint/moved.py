"""Where a redirect leads: followed on the same server, with its key; named, and never followed, to another."""

from __future__ import annotations

from typing import Final
from urllib.parse import urljoin, urlsplit

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""Source: RFC 9110, 15.4. A POST stays one with 307 and 308 alone."""

KEEP_THE_METHOD: Final = frozenset({307, 308})
MOST_HOPS: Final = 3


def same_server(url: str, location: str) -> str | None:
    """The URL that a redirect names, where the same server answers it (or the same host, now over TLS).

    Args:
        url: what was asked for.
        location: the `Location` of its answer, absolute or not.
    """
    try:
        old, found = urlsplit(url), urljoin(url, location)
        new = urlsplit(found)
        ports = [each.port or (443 if each.scheme == "https" else 80) for each in (old, new)]
    except ValueError:
        return None
    if old.hostname != new.hostname or "@" in new.netloc:
        return None
    upgraded = (old.scheme, new.scheme) == ("http", "https") and ports == [80, 443]
    return found if (old.scheme == new.scheme and ports[0] == ports[1]) or upgraded else None
