"""Metrics: what Prometheus is told of the cell. No label is an invoice, so that their number stays small."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bems.tracker.contract import STAGES, Stage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
RESULTS = ("accepted", "duplicate", "conflict", "refused", "unavailable")
"""`refused` by the rule of `answers.REFUSED_STATUSES`; a request that is turned away unread is one `unavailable`."""


Gauges = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]
"""(name, help, labels, value) of whatever is read at the moment when it is asked for."""


# When each counter began is of no use where all begin with the process.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts of the API since the process began, with the gauges of the rest of the cell."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "bems_requests", "HTTP requests that were answered", ["method", "code"], registry=self._registry
        )
        events = Counter(
            "bems_events", "Events that were answered, by what became of them", ["stage", "result"],
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "bems_send_seconds", "From a sending's last byte to its answer, its events durable and visible",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._requests = requests
        self._of: dict[tuple[str, int], Counter] = {}
        self.events: dict[tuple[Stage, str], Counter] = {
            (stage, result): events.labels(stage, result) for stage in STAGES for result in RESULTS
        }

    def answered(self, method: str, code: int) -> None:
        """A request was answered."""
        known = method if method in METHODS else "other"
        counter = self._of.get((known, code))
        if counter is None:
            counter = self._of[known, code] = self._requests.labels(known, code)
        counter.inc()

    def write(self, gauges: Gauges) -> bytes:
        """All of it in Prometheus' text format."""
        collector = _Gauges(gauges)
        self._registry.register(collector)
        try:
            return generate_latest(self._registry)
        finally:
            self._registry.unregister(collector)


class _Gauges(Collector):
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
