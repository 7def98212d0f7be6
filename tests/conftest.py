"""Fixtures that more than one room uses."""

import signal

import pytest

pytest_plugins = ["testbed.fixture"]

# A shell without job control starts background commands with SIGINT ignored, and children inherit that. Tests press
# Ctrl-C on children, so they are given the disposition that a terminal gives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_BEDS = {"session_bed": "hosts", "slurm_bed": "slurm"}


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real parts of one kind are held by one worker, of which `make test` has two: each kind exists once."""
    for item in items:
        if item.get_closest_marker("real"):
            fixtures = getattr(item, "fixturenames", ())
            kind = next((kind for fixture, kind in _BEDS.items() if fixture in fixtures), "engine")
            item.add_marker(pytest.mark.xdist_group(kind))
