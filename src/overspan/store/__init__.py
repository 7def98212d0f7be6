"""Folders of runs and sweeps on disk: JSONL, whole writes, locks."""
