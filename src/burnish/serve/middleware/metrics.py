"""Prometheus metrics of the server."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from burnish.core.records import Answer

_LATENCY_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = self._register(Counter, "burnish_requests", "Requests answered.", labels)
        self.seconds = Histogram(
            "burnish_request_seconds",
            "From a request to the end of its response.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.tokens = self._register(Counter, "burnish_tokens", "Tokens.", ["model", "kind"])

    def add_gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read when the metrics are rendered."""
        self._register(Gauge, name, text, ()).set_function(value)

    def count_tokens(self, model: str, answer: Answer) -> None:
        """Add the tokens of an answer."""
        self.tokens.labels(model, "prompt").inc(answer.tokens_in)
        self.tokens.labels(model, "cached").inc(answer.tokens_cached)
        self.tokens.labels(model, "completion").inc(answer.tokens_out)

    def render(self) -> bytes:
        """Render all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _register(self, kind: Any, name: str, text: str, labels: Any) -> Any:
        return kind(name, text, labels, registry=self.registry)
