"""The way to a host: does it answer over ssh, with the host key that is known."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Final

from overspan.preflight.book import HOST_KEY, SSH
from overspan.preflight.site import Site, Verdict, as_finding, untold
from overspan.schema.errors import HostKeyRejected, HostUnreachable
from overspan.schema.finding import Finding
from overspan.transport.ssh import by_hand

TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Access:
    """A host, what was found of it, and the error when it does not answer."""

    site: Site
    findings: list[Finding]
    gone: HostUnreachable | None = None

    def lost(self, error: HostUnreachable) -> Access:
        """The host fell silent while it was asked."""
        return replace(self, findings=_silent(self.site, error), gone=error)


def open_site(site: Site) -> Access:
    """Open the connection. This machine needs none, so nothing is said of it."""
    if site.host.ssh is None:
        return Access(site, [])
    try:
        site.transport.run(["true"], timeout_s=TIMEOUT_S)
    except HostUnreachable as error:
        return Access(site, _silent(site, error), error)
    answered = Verdict("passed", f"{site.name} ({site.host.ssh.address}) answers", _command(site), severity="info")
    known = Verdict("passed", "the host key is the one in known_hosts", _command(site), severity="info")
    return Access(site, [as_finding(SSH, site.name, answered), as_finding(HOST_KEY, site.name, known)])


def _silent(site: Site, error: HostUnreachable) -> list[Finding]:
    """One failed finding: of the key where that is the reason, else of the connection."""
    failed = Verdict("failed", error.quote or error.what, _command(site), error.what, error.next)
    other = untold(f"not asked: {error.what}")
    by_key = isinstance(error, HostKeyRejected)
    return [
        as_finding(SSH, site.name, other if by_key else failed),
        as_finding(HOST_KEY, site.name, failed if by_key else other),
    ]


def _command(site: Site) -> list[str]:
    return ["true"] if site.host.ssh is None else shlex.split(by_hand(site.host.ssh, "true"))
