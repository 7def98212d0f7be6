"""The load generator: measures an endpoint and says when it could not."""
