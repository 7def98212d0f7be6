"""Preflight, verify and doctor: all return findings."""
