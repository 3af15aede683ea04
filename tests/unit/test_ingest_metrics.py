"""Series of the ingest workers: bounded, whatever sources say."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from stream_ft import metrics
from stream_ft.events import Feedback, Reject
from stream_ft.metrics.ingest import IngestMetrics
from stream_ft.metrics.labels import DEAD_LETTERS


def value(series: IngestMetrics, name: str, **labels: str) -> float | None:
    return series.registry.get_sample_value(name, labels)


def test_what_was_taken_is_counted_by_kind_and_reason() -> None:
    series = IngestMetrics(CollectorRegistry())
    series.taken(Feedback(prediction_id="p", kind="accept"))
    series.taken(Reject(stage="decode", reason="invalid_json", detail="."))
    series.taken(Reject(stage="decode", reason="never heard of", detail="."))
    assert value(series, "stream_ft_ingest_events_total", kind="feedback") == 1
    assert value(series, "stream_ft_ingest_dead_letters_total", reason="invalid_json") == 1
    assert value(series, "stream_ft_ingest_dead_letters_total", reason="other") == 1


def test_what_has_not_happened_yet_is_counted_as_none() -> None:
    series = IngestMetrics(CollectorRegistry())
    for reason in (*DEAD_LETTERS, "other"):
        assert value(series, "stream_ft_ingest_dead_letters_total", reason=reason) == 0
    before = metrics.series(series.registry)
    series.taken(Feedback(prediction_id="p", kind="accept"))
    series.taken(Reject(stage="decode", reason="invalid_json", detail="."))
    assert metrics.series(series.registry) == before


def test_how_far_it_is_is_asked_at_every_scrape() -> None:
    series = IngestMetrics(CollectorRegistry())
    lag, still = [3], [0.0]
    series.progress(lag=lambda: lag[0], still_s=lambda: still[0])
    assert value(series, "stream_ft_ingest_lag_events") == 3
    lag[0], still[0] = 900, 31.0
    assert value(series, "stream_ft_ingest_lag_events") == 900
    assert value(series, "stream_ft_ingest_still_seconds") == 31.0


def test_sources_have_ranks_and_the_ranks_do_not_grow() -> None:
    series = IngestMetrics(CollectorRegistry())
    before = metrics.series(series.registry)
    series.rates(corrections=3, busiest=[9, 8, 7, 6, 5, 4], sources=6)
    series.rates(corrections=4, busiest=[2], sources=1)
    series.progress(lag=lambda: 10, still_s=lambda: 0.5)
    assert metrics.series(series.registry) == before
    rank = "stream_ft_ingest_source_feedback_per_minute"
    assert [value(series, rank, rank=str(n)) for n in (1, 2, 5)] == [2, 0, 0]
    assert value(series, "stream_ft_ingest_corrections_per_minute") == 4
    assert value(series, "stream_ft_ingest_lag_events") == 10
