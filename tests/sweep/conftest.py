"""A user's shell, as the tests of the command line have it."""

from cli.conftest import refused, shell

__all__ = ["refused", "shell"]
