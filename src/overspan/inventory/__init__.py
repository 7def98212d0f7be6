"""Facts about machines: each is a command, a parser and captured outputs."""

from overspan.inventory.here import this_machine

__all__ = ["this_machine"]
