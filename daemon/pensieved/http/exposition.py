"""The table of metrics in Prometheus' text format, by Prometheus' own library.

Each app has a registry of its own. It is imported at the first scrape: 15 ms and 1 MiB that the port need not wait
for, and that a daemon which nobody scrapes never pays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from pensieved.http.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.http.ledger import Histogram
    from pensieved.http.metrics import Metric, Sources

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class TableCollector:
    """Reads every row of the table off `sources`, for a registry."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Family]:
        """One family a row; those without a sample are left out."""
        for metric in METRICS:
            reading: Any = metric.read(self._sources)
            if reading is not None:
                yield _FAMILIES[metric.kind](metric, reading)


def expose(sources: Sources, accept: str) -> tuple[bytes, str]:
    """All metrics as bytes, and their media type.

    Args:
        sources: what to read.
        accept: the request's header of that name.
    """
    registry = CollectorRegistry()
    registry.register(TableCollector(sources))
    if "application/openmetrics-text" in accept:
        return bytes(generate_openmetrics(registry)), _OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(registry), _TEXT


def _counter(metric: Metric, reading: Any) -> Family:
    family = CounterMetricFamily(metric.exposed, metric.help, labels=metric.labels, unit=metric.unit)
    for labels, value in _labelled(reading):
        family.add_metric(labels, value)
    return family


def _gauge(metric: Metric, reading: Any) -> Family:
    family = GaugeMetricFamily(metric.exposed, metric.help, labels=metric.labels, unit=metric.unit)
    for labels, value in _labelled(reading):
        family.add_metric(labels, value)
    return family


def _labelled(reading: Any) -> Iterator[tuple[tuple[str, ...], float]]:
    yield from reading.items() if isinstance(reading, dict) else [((), reading)]


def _histogram(metric: Metric, reading: Histogram) -> Family:
    buckets, below = [], 0
    for bound, count in zip((*reading.bounds, math.inf), reading.counts, strict=True):
        below += count
        buckets.append((_name(bound), float(below)))
    return HistogramMetricFamily(metric.exposed, metric.help, buckets, reading.sum, unit=metric.unit)


def _name(bound: float) -> str:
    return "+Inf" if bound == math.inf else str(bound)


def _info(metric: Metric, reading: Any) -> Family:
    return InfoMetricFamily(metric.name, metric.help, reading)


def _states(metric: Metric, reading: Any) -> Family:
    return StateSetMetricFamily(metric.name, metric.help, reading)


_FAMILIES = {
    "counter": _counter,
    "gauge": _gauge,
    "histogram": _histogram,
    "info": _info,
    "stateset": _states,
}
