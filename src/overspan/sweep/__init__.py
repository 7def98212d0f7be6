"""Sweeps: a matrix of points from one document, its journal, results, ledger and comparison. Starts nothing."""
