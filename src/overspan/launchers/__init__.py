"""Start, watch and end processes; knows nothing of engines."""
