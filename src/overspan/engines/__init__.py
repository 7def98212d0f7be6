"""Pure: a plan becomes processes, one module an engine."""
