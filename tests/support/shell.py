"""`overspan` as a user's shell starts it."""

import os
import subprocess
import sys
from collections.abc import Mapping

Done = subprocess.CompletedProcess[str]


def start_overspan(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command with `env` beside this process's own environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "overspan", *arguments],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_overspan(*arguments: str, env: Mapping[str, str] | None = None) -> Done:
    """Run the command to its end, of ten minutes at most."""
    with start_overspan(*arguments, env=env) as process:
        out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
