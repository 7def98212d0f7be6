"""Prepare a host: engine environments and model files, cached under a lock, safe against a kill half-way."""
