"""The README's picture: six real points are measured here, reported, and photographed by a browser.

    PYTHONPATH=src:tests python tools/report_picture.py [SWEEP]

SWEEP is one that was run already; without it the sweep that CI tests (tests/support/ladder.py) is run first. It needs
the CPU engine and Chromium, and a few minutes of a quiet machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from support import browser, ladder

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
SIZE = (1000, 1130)
"""Of the window. GitHub shows a README about 900 pixels wide, so text keeps nearly its size."""


def overspan(*arguments: str, ends: tuple[int, ...] = (0,)) -> str:
    """The command's standard output."""
    command = [sys.executable, "-m", "overspan", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in ends:
        raise SystemExit(f"overspan {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def main() -> None:
    """Measure where no sweep is named, then take the picture."""
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        if not given:
            overspan("sweep", str(ladder.write(Path(scratch))), "--fresh", ends=(1,))  # one point is made to fail
        page = Path(overspan("report", given[0] if given else "ladder").strip())
        browser.screenshot(page, PICTURE, size=SIZE, sharpness=2)
    print(PICTURE)


if __name__ == "__main__":
    main()
