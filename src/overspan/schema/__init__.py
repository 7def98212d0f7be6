"""Frozen types, errors, ports and units: what every other room speaks. It imports no other room."""
