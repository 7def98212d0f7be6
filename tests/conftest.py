"""Fixtures that more than one room uses."""

import signal

pytest_plugins = ["testbed.fixture"]

# A shell without job control starts background commands with SIGINT ignored, and children inherit that. Tests press
# Ctrl-C on children, so they are given the disposition that a terminal gives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
