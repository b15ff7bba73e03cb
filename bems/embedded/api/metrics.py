"""Prometheus metrics of the cell. No label identifies an invoice, so the number of series stays small."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bems.tracker.contract import STAGES, Stage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SEND_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
"""Methods that are labels of bems_requests; all others are counted as `other`."""
RESULTS = ("accepted", "duplicate", "conflict", "refused", "unavailable")
"""Values of the label `result` of bems_events. `refused` follows the rule of `responses.REFUSED_STATUSES`. A request
answered 503 before it is parsed counts as one `unavailable` event."""


Gauges = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]
"""Function that returns (name, help, labels, value) of each gauge, read at the time of the call."""


# All counters start with the process, so their creation times say nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counters of the API since the start of the process. The gauges come from the caller of `write`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        requests = Counter("bems_requests", "HTTP requests answered", ["method", "code"], registry=self._registry)
        events = Counter(
            "bems_events", "Events answered, by result", ["stage", "result"],
            registry=self._registry,
        )  # fmt: skip
        self.send_seconds = Histogram(
            "bems_send_seconds",
            "Seconds from the last byte of a request with events until they are durable and visible, and answered",
            buckets=SEND_SECONDS_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._requests = requests
        self._request_counters: dict[tuple[str, int], Counter] = {}
        self.events: dict[tuple[Stage, str], Counter] = {
            (stage, result): events.labels(stage, result) for stage in STAGES for result in RESULTS
        }

    def count_request(self, method: str, code: int) -> None:
        """Count an answered request."""
        known = method if method in METHODS else "other"
        counter = self._request_counters.get((known, code))
        if counter is None:
            counter = self._request_counters[known, code] = self._requests.labels(known, code)
        counter.inc()

    def write(self, gauges: Gauges) -> bytes:
        """Return all metrics in the Prometheus text format."""
        collector = _Gauges(gauges)
        self._registry.register(collector)
        try:
            return generate_latest(self._registry)
        finally:
            self._registry.unregister(collector)


class _Gauges(Collector):
    """Collector that reads the gauges each time that metrics are written."""

    def __init__(self, read: Gauges) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._read():
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(name, text, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        return families.values()
