"""Names of the topics of one model."""

from __future__ import annotations

KINDS = ("predictions", "feedback", "labels", "events", "control", "heads", "acks", "dlq")


def topic(model: str, kind: str) -> str:
    """``stream_ft.<model>.<kind>``.

    Raises:
        ValueError: ``kind`` is none of :data:`KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown topic kind {kind!r}")
    return f"stream_ft.{model}.{kind}"


def kind_of(topic: str) -> str:
    """The kind of a topic of ours; ``""`` for another topic."""
    kind = topic.rpartition(".")[2]
    return kind if topic.startswith("stream_ft.") and kind in KINDS else ""
