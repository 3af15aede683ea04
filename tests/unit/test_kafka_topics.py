"""How topics must be laid out in Kafka, and what is said of one that is not."""

from __future__ import annotations

import pytest

from stream_ft.connectors.kafka_topics import HOUR_MS, ROOM, Layout, flaws, layout, limit_of
from stream_ft.errors import ConfigError
from stream_ft.ports import Flaw
from stream_ft.topics import KINDS


def want(kind: str, *, retention_hours: float = 24.0) -> Layout:
    return layout(
        f"stream_ft.m.{kind}",
        partitions=6,
        retention_hours=retention_hours,
        dead_letter_hours=100.0,
        max_message_bytes=50_000,
    )


def found(kind: str, *, partitions: int | None = None, **changes: str) -> list[Flaw]:
    wanted = want(kind)
    configs = dict(wanted.configs) | {name.replace("_", "."): value for name, value in changes.items()}
    count = wanted.partitions if partitions is None else partitions
    return list(flaws(f"stream_ft.m.{kind}", wanted, partitions=count, configs=configs))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_layout_with_the_logs_own_time_and_no_flaw_of_its_own(kind: str) -> None:
    assert want(kind).configs["message.timestamp.type"] == "LogAppendTime"
    assert found(kind) == []


def test_commands_stay_for_ever_in_one_order() -> None:
    control = want("control")
    assert control.partitions == 1
    assert (control.configs["cleanup.policy"], control.configs["retention.ms"]) == ("delete", "-1")
    assert control.configs["retention.bytes"] == "-1"


def test_events_are_spread_and_stay_for_their_time() -> None:
    assert want("feedback").partitions == 6
    assert want("feedback").configs["retention.ms"] == str(24 * HOUR_MS)
    assert want("feedback", retention_hours=0).configs["retention.ms"] == "-1"
    assert want("dlq").configs["retention.ms"] == str(100 * HOUR_MS)


def test_a_dead_letter_may_be_an_event_and_its_reason() -> None:
    assert limit_of("stream_ft.m.dlq", 50_000) == 2 * limit_of("stream_ft.m.feedback", 50_000) == 100_000
    assert want("dlq").configs["max.message.bytes"] == str(100_000 + ROOM)
    assert limit_of("stream_ft.m.heads", 50_000) == 400_000


@pytest.mark.parametrize(
    ("kind", "changes", "serious"),
    [
        ("control", {"cleanup_policy": "compact"}, True),
        ("feedback", {"cleanup_policy": "compact,delete"}, True),
        ("labels", {"message_timestamp_type": "CreateTime"}, True),
        ("control", {"retention_ms": "604800000"}, True),
        ("control", {"retention_bytes": "1000000"}, True),
        ("feedback", {"retention_ms": "1000"}, False),
        ("predictions", {"max_message_bytes": "1000"}, True),
    ],
)
def test_what_would_lose_or_misread_messages_is_serious(kind: str, changes: dict[str, str], serious: bool) -> None:
    (flaw,) = found(kind, **changes)
    name = next(iter(changes)).replace("_", ".")
    assert flaw.serious is serious
    assert f"--entity-name stream_ft.m.{kind} --add-config {name}=" in flaw.remedy


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("heads", {"cleanup_policy": "delete, compact"}),
        ("feedback", {"retention_ms": "-1"}),
        ("feedback", {"retention_ms": str(1_000 * HOUR_MS)}),
        ("feedback", {"max_message_bytes": "99999999"}),
    ],
)
def test_what_keeps_more_than_is_needed_is_no_flaw(kind: str, changes: dict[str, str]) -> None:
    assert found(kind, **changes) == []


def test_partitions_matter_where_messages_have_one_order() -> None:
    assert [flaw.serious for flaw in found("control", partitions=2)] == [True]
    assert [flaw.serious for flaw in found("feedback", partitions=2)] == [False]


def test_a_topic_of_somebody_else_has_no_layout() -> None:
    with pytest.raises(ConfigError, match="is not a topic of stream_ft"):
        layout("orders", partitions=1, retention_hours=1, dead_letter_hours=1, max_message_bytes=10_000)
