"""What a service sees of itself: metrics for Prometheus, distances of today, rates by the hour."""

import threading
import time
from collections import deque
from collections.abc import Callable

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from likewise.calibration import Calibration
from likewise.drift import MOST, check_drift
from likewise.service import bodies

HOUR = 3600.0
HOURS = 24 * 7
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Watch:
    """Counts requests, and remembers the distances of matches."""

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
        self._distances: dict[str, deque[float]] = {}
        self._hours: dict[str, deque[bodies.Hour]] = {}
        self._lock = threading.Lock()

    def gauge(self, name: str, sentence: str, value: Callable[[], float]) -> None:
        """A number that is asked for when metrics are."""
        Gauge(name, sentence, registry=self.registry).set_function(value)

    def metrics(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def saw_batch(self, requests: int, items: int) -> None:
        """Count a batch."""
        self.batches.observe(items)

    def saw_matches(self, point: str, answers: list[bodies.MatchAnswer]) -> None:
        """Count matches and remember their distances."""
        unknown = sum(answer.label is None for answer in answers)
        if unknown:
            self.matched.labels(point, "unknown").inc(unknown)
        if unknown < len(answers):
            self.matched.labels(point, "known").inc(len(answers) - unknown)
        near = [answer.distance for answer in answers if answer.distance is not None]
        began = time.time() // HOUR * HOUR
        with self._lock:
            kept = self._distances.setdefault(point, deque(maxlen=MOST))
            kept.extend(torch.inf if a.distance is None else a.distance for a in answers)
            hours = self._hours.setdefault(point, deque(maxlen=HOURS))
            if not hours or hours[-1].time != began:
                hours.append(bodies.Hour(began, 0, 0, None))
            hour = hours[-1]
            finite = hour.matched if hour.distance is not None else 0
            hour.matched += len(answers)
            hour.unknown += unknown
            if near:
                before = 0.0 if hour.distance is None else hour.distance * finite
                hour.distance = (before + sum(near)) / (finite + len(near))

    def drift(
        self, point: str, made: Calibration, outgrown: str | None, false_alarm: float
    ) -> bodies.DriftReport:
        """Whether today's distances look like those of a calibration."""
        with self._lock:
            seen = list(self._distances.get(point, ()))
            hours = [
                bodies.Hour(hour.time, hour.matched, hour.unknown, hour.distance)
                for hour in self._hours.get(point, ())
            ]
        report = bodies.DriftReport(
            point=point,
            seen=len(seen),
            drifted=None,
            gap=None,
            p_value=None,
            false_alarm=false_alarm,
            accepted_before=None,
            accepted_now=None,
            advice="Nothing was matched yet.",
            outgrown=outgrown,
            hours=hours,
        )
        if seen and not made.sample:
            report.advice = "The calibration keeps no sample of its distances: calibrate again."
        elif seen:
            found = check_drift(made, torch.tensor(seen), false_alarm=false_alarm)
            report.drifted, report.gap = found.drifted, found.gap
            report.p_value, report.advice = found.p_value, found.advice
            report.accepted_before = found.accepted_before
            report.accepted_now = found.accepted_now
        return report
