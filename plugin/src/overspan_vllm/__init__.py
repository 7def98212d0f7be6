"""Mends known faults of vLLM where Overspan runs it, one module a fault. It imports nothing of Overspan."""

__version__ = "0.1.0"
