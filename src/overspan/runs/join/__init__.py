"""Hosts that start apart and join one run."""
