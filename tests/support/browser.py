"""A real headless Chromium, driven by its command line alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: `make system-parts` as root")

# Without these a fresh Chromium looks up hosts of its vendor, which a closed network refuses and the test would count.
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--virtual-time-budget=8000",
    "--enable-logging=stderr",
]
_CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")


@dataclass(frozen=True)
class Visit:
    """What the browser did with a page.

    Args:
        dom: the document as HTML, after its scripts ran.
        console: lines that the page's console got, errors and policy violations among them.
        requested: URLs that were asked for over a network; neither the file itself nor data: and blob:.
    """

    dom: str
    console: list[str]
    requested: list[str]


def visit(page: Path, *, dark: bool = False, width: int = 1280) -> Visit:
    """Open a local page, let its scripts run, and tell what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        net_log = Path(scratch) / "net.json"
        done = _chromium(scratch, page, ["--dump-dom", f"--log-net-log={net_log}"], dark=dark, size=(width, 900))
        requested = _requests(json.loads(net_log.read_text()))
    return Visit(done.stdout, _CONSOLE.findall(done.stderr), requested)


def screenshot(
    page: Path, picture: Path, *, dark: bool = False, size: tuple[int, int] = (1280, 3000), sharpness: int = 1
) -> None:
    """A picture of a page, for a person to look at; `sharpness` is its pixels to one of the page."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [f"--screenshot={picture}", f"--force-device-scale-factor={sharpness}"]
        _chromium(scratch, page, arguments, dark=dark, size=size)


def _chromium(
    scratch: str, page: Path, arguments: list[str], *, dark: bool, size: tuple[int, int]
) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = f"--window-size={size[0]},{size[1]}"
    command = [CHROMIUM, *_FLAGS, theme, window, f"--user-data-dir={scratch}/profile", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def _requests(net_log: dict[str, Any]) -> list[str]:
    asked = [event["params"] for event in net_log["events"] if "initiator" in event.get("params", {})]
    # The browser's own look-ups of its vendor, which no flag ends altogether, have no origin; a page's have one.
    urls = {params.get("url", "") for params in asked if params["initiator"] != "not an origin"}
    return sorted(url for url in urls if re.match(r"(https?|wss?|ftp):", url))
