"""Fixtures that more than one room uses."""

pytest_plugins = ["testbed.fixture"]
