"""Every series of an ingest worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from prometheus_client import CollectorRegistry

from stream_ft.events import Event, Reject
from stream_ft.metrics.labels import DEAD_LETTERS, slug
from stream_ft.metrics.registry import kinds

RANKS = ("1", "2", "3", "4", "5")
TAKEN = ("prediction", "feedback", "labelled")


class IngestMetrics:
    """Series of an ingest worker. Sources have ranks, not names: a name may be a person's.

    Args:
        registry: where they are registered; one instance per registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge, _ = kinds(registry)
        # fmt: off
        self._taken = counter("stream_ft_ingest_events", "Events forwarded by this worker, by kind.", ["kind"])
        self._dead = counter("stream_ft_ingest_dead_letters", "Events refused by this worker, by reason.", ["reason"])
        self._lag = gauge("stream_ft_ingest_lag_events", "Events of this worker's partitions that wait.")
        self._still = gauge("stream_ft_ingest_still_seconds", "Time without progress while events wait.")
        self._corrections = gauge("stream_ft_ingest_corrections_per_minute",
            "Corrections in the last whole minute.")
        self._sources = gauge("stream_ft_ingest_sources", "Sources that gave feedback in the last whole minute.")
        self._busiest = gauge("stream_ft_ingest_source_feedback_per_minute",
            "Feedback in the last whole minute of the sources that gave most.", ["rank"])
        # fmt: on
        for rank in RANKS:
            self._busiest.labels(rank).set(0)
        # A series that is born with its first event has no rate of it: alerts would miss it.
        for kind in TAKEN:
            self._taken.labels(kind)
        for reason in (*DEAD_LETTERS, "other"):
            self._dead.labels(reason)

    def taken(self, event: Event | Reject) -> None:
        """Count one record that was handled and confirmed."""
        if isinstance(event, Reject):
            self._dead.labels(slug(event.reason, DEAD_LETTERS)).inc()
        else:
            self._taken.labels(slug(str(event.__struct_config__.tag), TAKEN)).inc()

    def progress(self, *, lag: Callable[[], int], still_s: Callable[[], float]) -> None:
        """How far the worker is, asked at every scrape."""
        self._lag.set_function(lag)
        self._still.set_function(still_s)

    def rates(self, *, corrections: int, busiest: Sequence[int], sources: int) -> None:
        """Set what the last whole minute brought; ``busiest`` in descending order."""
        self._corrections.set(corrections)
        self._sources.set(sources)
        for rank, count in zip_longest(RANKS, busiest[: len(RANKS)], fillvalue=0):
            self._busiest.labels(rank).set(count)
