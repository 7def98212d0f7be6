"""From a host of an inventory to the way to it."""

from __future__ import annotations

from overspan.schema.inventory import Host
from overspan.transport.local import Local
from overspan.transport.ssh import Remote


def reach(host: Host) -> Local | Remote:
    """A transport to the host: over ssh where the inventory says so, else this machine. Nothing is opened yet."""
    return Local(host.name) if host.ssh is None else Remote(host.name, host.ssh)
