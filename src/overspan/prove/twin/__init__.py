"""A shrunken model with the same architecture and divisibility as the real one, and the proof that it is for."""
