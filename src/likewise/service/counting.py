"""What a service counts of its requests, for Prometheus."""

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from likewise.service import bodies

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Counts:
    """Counts requests, batches and matches since the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "likewise_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "likewise_request_seconds",
            "Seconds from the head of a request to its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "likewise_refused", "Requests refused, by code.", ("code",), registry=self.registry
        )
        self.matched = Counter(
            "likewise_matched",
            "Items matched, by operating point and outcome.",
            ("point", "outcome"),
            registry=self.registry,
        )
        self.batches = Histogram(
            "likewise_batch_items",
            "Items encoded together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )

    def gauge(self, name: str, sentence: str, value: Callable[[], float]) -> None:
        """A number that is asked for when metrics are."""
        Gauge(name, sentence, registry=self.registry).set_function(value)

    def metrics(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def saw_batch(self, requests: int, items: int) -> None:
        """Count a batch."""
        self.batches.observe(items)

    def saw_matches(self, point: str, answers: Sequence[bodies.MatchAnswer]) -> None:
        """Count matches."""
        unknown = sum(answer.label is None for answer in answers)
        if unknown:
            self.matched.labels(point, "unknown").inc(unknown)
        if unknown < len(answers):
            self.matched.labels(point, "known").inc(len(answers) - unknown)
