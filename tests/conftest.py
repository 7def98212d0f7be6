"""Fixtures that more than one room uses."""

import signal

import pytest

pytest_plugins = ["testbed.fixture"]

# A shell without job control starts background commands with SIGINT ignored, and children inherit that. Tests press
# Ctrl-C on children, so they are given the disposition that a terminal gives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that may take longest come first, so that no worker waits for one at the end."""
    limits: dict[object, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = float(marker.args[0]) if marker else float(config.getini("timeout"))
        limits[item.path] = max(limits.get(item.path, 0.0), limit)
    items.sort(key=lambda item: -limits[item.path])
