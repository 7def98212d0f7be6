"""A plain client for what is asked before the load, on the load's own way: its proxy, certificates and key."""

from __future__ import annotations

import httpx

from overspan.endpoint.target import Target


def http_client(target: Target, timeout_s: float) -> httpx.Client:
    """A client for a target; to be closed by the caller."""
    via = {"Proxy-Authorization": target.proxy_key} if target.proxy_key else None
    return httpx.Client(
        timeout=timeout_s,
        headers={"Authorization": f"Bearer {target.api_key}"} if target.api_key else {},
        verify=target.tls if target.tls is not None else False,
        proxy=httpx.Proxy(target.proxy, headers=via) if target.proxy else None,
        trust_env=False,
    )
