"""How each topic must be laid out in Kafka, and what is wrong with one that is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_ft.errors import ConfigError
from stream_ft.ports import Flaw
from stream_ft.topics import kind_of

HOUR_MS = 3_600_000
SPREAD = ("predictions", "feedback", "labels", "events")
"""Kinds with several partitions: their order across partitions means nothing."""
HEADS_MS = 600_000
"""A head of the fast tier is worthless once newer ones are there."""
LARGER = {"dlq": 2, "heads": 8}
"""How many times ``kafka.max_message_bytes`` a message may have: a dead letter is an event and the reason, and a head
grows with the number of labels."""
ROOM = 65_536
"""Of a message beside its value: key, headers, framing."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a topic must be."""

    partitions: int
    configs: Mapping[str, str]


def layout(
    topic: str, *, partitions: int, retention_hours: float, dead_letter_hours: float, max_message_bytes: int
) -> Layout:
    """Of one of our topics.

    Raises:
        ConfigError: the topic is not one of ours.
    """
    kind = kind_of(topic)
    if not kind:
        raise ConfigError(f"{topic!r} is not a topic of stream_ft.", "See stream_ft.topics for their names.")
    configs = {
        "cleanup.policy": "delete",
        # Commands expire, and events are too old, by the time of the log: a publisher's clock must not decide.
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(limit_of(topic, max_message_bytes) + ROOM),
        "retention.bytes": "-1",
    }
    if kind in SPREAD:
        configs["retention.ms"] = _ms(retention_hours)
    elif kind == "control":
        configs["retention.ms"] = "-1"
    elif kind == "dlq":
        configs["retention.ms"] = _ms(dead_letter_hours)
    elif kind == "acks":
        configs["cleanup.policy"] = "compact"
    elif kind == "heads":
        configs |= {"cleanup.policy": "compact,delete", "retention.ms": str(HEADS_MS), "segment.ms": str(HEADS_MS)}
    return Layout(partitions=partitions if kind in SPREAD else 1, configs=configs)


def limit_of(topic: str, max_message_bytes: int) -> int:
    """Bytes of key, value and headers that a message may have."""
    return LARGER.get(kind_of(topic), 1) * max_message_bytes


def flaws(topic: str, want: Layout, *, partitions: int, configs: Mapping[str, str]) -> Sequence[Flaw]:
    """What is wrong with a topic that is there; empty if it will do.

    Args:
        partitions: how many it has.
        configs: its settings in force.
    """
    found = []

    def wrong(serious: bool, text: str, remedy: str) -> None:
        found.append(Flaw(topic=topic, serious=serious, text=text, remedy=remedy))

    if partitions != want.partitions:
        single = want.partitions == 1 and kind_of(topic) not in SPREAD
        wrong(
            single,
            f"{topic} has {partitions} partitions, not {want.partitions}.",
            "Its messages have one order: make it anew with one partition."
            if single
            else "All of them are read; to silence this, set kafka.partitions to what it has.",
        )
    for name in ("cleanup.policy", "message.timestamp.type"):
        have, need = _items(configs.get(name, "")), _items(want.configs[name])
        if have != need:
            wrong(
                True,
                f"{topic} has {name} = {configs.get(name, '')}, not {want.configs[name]}.",
                _command(topic, name, want.configs[name]),
            )
    limit, need_bytes = int(configs.get("max.message.bytes", "0")), int(want.configs["max.message.bytes"])
    if limit < need_bytes:
        wrong(
            True,
            f"{topic} takes messages of {limit} bytes; {need_bytes} are needed.",
            _command(topic, "max.message.bytes", str(need_bytes)) + " Or lower kafka.max_message_bytes.",
        )
    for name in ("retention.ms", "retention.bytes"):
        if name in want.configs and _longer(want.configs[name], configs.get(name, "")):
            wrong(
                kind_of(topic) == "control",
                f"{topic} keeps messages for {name} = {configs.get(name, '')}, not {want.configs[name]}.",
                _command(topic, name, want.configs[name]),
            )
    return found


def _ms(hours: float) -> str:
    return "-1" if hours <= 0 else str(int(hours * HOUR_MS))


def _items(value: str) -> set[str]:
    return {item.strip() for item in value.split(",") if item.strip()}


def _longer(wanted: str, have: str) -> bool:
    """Whether a retention that is wanted exceeds the one that is had; -1 is for ever."""
    if not have or have == "-1":
        return False
    return wanted == "-1" or int(wanted) > int(have)


def _command(topic: str, name: str, value: str) -> str:
    quoted = f"[{value}]" if "," in value else value
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {name}={quoted}."
