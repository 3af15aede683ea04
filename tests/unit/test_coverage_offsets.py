"""How far a version covers the log, where a topic has one partition and where it has several."""

from __future__ import annotations

from stream_ft.wiring.coverage import Coverage


def test_a_topic_with_one_partition_has_one_offset() -> None:
    coverage = Coverage()
    coverage.mark(5, {("labels", 0): 7, ("feedback", 0): 3})
    coverage.mark(9, {("labels", 0): 12, ("feedback", 0): 4})
    assert coverage.upto(5, {}) == {"labels": 7, "feedback": 3}
    assert coverage.upto(8, {}) == {"labels": 7, "feedback": 3}
    assert coverage.upto(9, {}) == {"labels": 12, "feedback": 4}
    assert coverage.upto(4, {"labels": 1}) == {"labels": 1}


def test_a_topic_with_several_claims_nothing_as_a_whole() -> None:
    """The offset of one partition says nothing of another's: no event may seem covered that is not."""
    coverage = Coverage()
    coverage.mark(5, {("labels", 0): 70, ("labels", 1): 2, ("feedback", 0): 3})
    assert coverage.upto(5, {}) == {"labels[0]": 70, "labels[1]": 2, "feedback": 3}
