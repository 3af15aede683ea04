"""Every series in one place. Names: ``stream_ft_`` prefix, base units; labels only from small fixed sets.

No user id, text or free string is ever a label: :mod:`stream_ft.metrics.labels` has what a label may say. Of bases only
the last eight have series, of classes only the ten with the lowest recall; those that leave are removed. A version is
named by its base (``v3``) and the tier that answered (``slow``: the head of a release, ``fast``: one learned since),
never by a single fast head. So the number of series stays below :data:`MOST_SERIES` however many users, labels and
versions there are.
"""

from __future__ import annotations

from stream_ft.metrics.ingest import IngestMetrics
from stream_ft.metrics.learn import LearnMetrics
from stream_ft.metrics.registry import MOST_SERIES, Ready, new_registry, render, series, watch_process
from stream_ft.metrics.serve import ServeMetrics

__all__ = [
    "MOST_SERIES",
    "IngestMetrics",
    "LearnMetrics",
    "Ready",
    "ServeMetrics",
    "new_registry",
    "render",
    "series",
    "watch_process",
]
