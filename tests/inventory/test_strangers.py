"""Listings of strangers, judged from their threads before detect was asked (docs/log.md has that first score)."""

from __future__ import annotations

from pathlib import Path

from support.strangers import faults, read

REACHED = 19
"""How many are right: it may only grow."""


def test_strangers_hosts_are_read_as_their_threads_judged(tmp_path: Path) -> None:
    listings = read("inventory/strangers.jsonl")
    found = {one["name"]: faults(one, tmp_path / one["name"]) for one in listings}
    bad = {name: each for name, each in found.items() if each}
    assert len(listings) - len(bad) >= REACHED, bad
    assert all(one["source"].startswith("https://") and one["date"] for one in listings)
