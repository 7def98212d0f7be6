"""Run a command of this machine and say what it wrote when it failed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def sh(argv: Sequence[str], *, check: bool = True, stdin: bytes | None = None, timeout_s: float = 60.0) -> str:
    """Run to the end and give stdout. A command that fails is an error that quotes its stderr."""
    done = subprocess.run(
        list(argv),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout_s,
        cwd="/",
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")
