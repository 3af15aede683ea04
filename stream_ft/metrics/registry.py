"""The registry of a process, and what a scrape of it returns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

MOST_SERIES = 500
"""Of a serving process, a learner and an ingest worker together."""


def new_registry() -> CollectorRegistry:
    """A registry of one process. The global default registry is not used: a test can have as many as it likes."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return CollectorRegistry(auto_describe=True)


def watch_process(registry: CollectorRegistry) -> None:
    """Add CPU, memory and open files of this process under their usual names (``process_...``), where it can tell."""
    ProcessCollector(registry=registry)


def render(registry: CollectorRegistry) -> bytes:
    """All series in Prometheus' text format."""
    return generate_latest(registry)


def kinds(registry: CollectorRegistry) -> tuple[partial[Counter], partial[Gauge], partial[Histogram]]:
    """What makes a counter, a gauge and a histogram of this registry."""
    return partial(Counter, registry=registry), partial(Gauge, registry=registry), partial(Histogram, registry=registry)


def series(registry: CollectorRegistry) -> int:
    """How many series a scrape returns."""
    return sum(len(metric.samples) for metric in registry.collect())


Ready = Callable[[], tuple[bool, str]]
"""``(ready, why not)``: what a readiness probe asks."""
