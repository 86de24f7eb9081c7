"""The HTTP API: a folder an endpoint, each with `router`, `protocol` and `service`."""
