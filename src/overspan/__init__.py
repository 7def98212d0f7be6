"""Overspan takes one model and any set of machines to a running, proven and measured endpoint."""

__version__ = "0.1.0"
