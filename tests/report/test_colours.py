"""Contrast of the page's colours, by the formula of WCAG 2.2 (1.4.3 text 4.5, 1.4.11 graphics 3)."""

from __future__ import annotations

import re
from importlib import resources

import pytest

CSS = (resources.files("overspan.report") / "templates" / "report.css").read_text()
THEMES = [dict(re.findall(r"--([\w-]+): (#\w{6})", rules)) for rules in re.findall(r":root[^{}]*\{([^}]*)\}", CSS)]
MESSAGES = ("accent", "good", "bad", "warn")
LIGHT, DARK = (theme for theme in THEMES if "page" in theme)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_stands_out_from_what_is_behind_it(theme: dict[str, str]) -> None:
    weak = {
        name: round(worst, 2)
        for name, colour in theme.items()
        if (
            least := 3.0 if name.startswith(("series", "level")) else 4.5 if "ink" in name or name in MESSAGES else None
        )
        and (worst := min(contrast(colour, theme["page"]), contrast(colour, theme["panel"]))) < least
    }
    assert weak == {}
