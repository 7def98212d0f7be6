"""A run: its folder, states, supervisor; up and stop."""
