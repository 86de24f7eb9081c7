"""/healthz, /readyz and /metrics."""
