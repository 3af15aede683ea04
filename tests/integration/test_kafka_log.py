"""The Kafka connector against a real broker: what the contract of all event logs does not say."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from house import wait_for
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import RetriableError

from stream_ft import doctor
from stream_ft.config import KafkaSettings, load
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.errors import ConfigError, LogAwayError, LogTruncatedError, MessageTooLargeError
from stream_ft.ports import Brokered, Outgoing
from stream_ft.topics import KINDS, topic

pytestmark = pytest.mark.kafka
Open = Callable[..., KafkaLog]


@pytest.fixture
def model() -> str:
    """A name that no test had before: the broker outlives them."""
    return f"m{uuid.uuid4().hex[:12]}"


@pytest.fixture
def open_log(kafka_address: str) -> Iterator[Open]:
    """Opens logs on the broker, with settings of the section ``kafka``; ``group`` too."""
    with ExitStack() as opened:

        def start(address: str = kafka_address, **settings: Any) -> KafkaLog:
            group = settings.pop("group", "")
            options = KafkaSettings(**settings).model_dump() | {"group": group}
            log = KafkaLog(address, read_options(options))
            opened.callback(log.close)
            return log

        yield start


@pytest.fixture
def admin(kafka_address: str) -> Iterator[KafkaAdminClient]:
    """To look, and to spoil."""
    client = KafkaAdminClient(bootstrap_servers=kafka_address)
    yield client
    client.close()


def values(log: KafkaLog, topic: str, partition: int = 0, offset: int = 0) -> list[bytes]:
    """Of all records from an offset on."""
    found: list[bytes] = []
    while records := log.read(topic, partition, offset, 100):
        found += [record.value for record in records]
        offset = records[-1].offset + 1
    return found


def test_topics_are_made_as_they_must_be(open_log: Open, model: str) -> None:
    log = open_log(partitions=3, retention_hours=2.0)
    assert isinstance(log, Brokered)
    names = [f"stream_ft.{model}.{kind}" for kind in ("predictions", "control", "heads", "acks", "dlq")]
    missing = log.examine(names)
    assert {flaw.topic for flaw in missing} == set(names)
    assert not any(flaw.serious for flaw in missing)
    assert log.prepare(names) == []
    assert log.partitions(names[0]) == [0, 1, 2]
    assert log.partitions(names[1]) == [0]
    again = open_log(partitions=3, retention_hours=2.0)
    assert again.examine(names) == []
    assert again.log_id(names[0]) == log.log_id(names[0])
    assert again.log_id(names[0]) != log.log_id(names[1])


def test_a_topic_that_somebody_made_wrongly_is_told_with_its_remedy(
    open_log: Open, admin: KafkaAdminClient, model: str
) -> None:
    name, events = f"stream_ft.{model}.control", f"stream_ft.{model}.labels"
    configs = {"cleanup.policy": "compact", "max.message.bytes": "20000", "retention.ms": "1000"}
    admin.create_topics(
        {
            name: {"num_partitions": 2, "replication_factor": 1, "configs": configs},
            events: {
                "num_partitions": 2,
                "replication_factor": 1,
                "configs": {"message.timestamp.type": "LogAppendTime"},
            },
        }
    )
    found = open_log(max_message_bytes=900_000).prepare([name, events])
    serious = {flaw.text.removeprefix(f"{name} "): flaw.remedy for flaw in found if flaw.serious}
    assert list(serious) == [
        "has 2 partitions, not 1.",
        "has cleanup.policy = compact, not delete.",
        "has message.timestamp.type = CreateTime, not LogAppendTime.",
        "takes messages of 20000 bytes; 965536 are needed.",
        "keeps messages for retention.ms = 1000, not -1.",
    ]
    assert f"--entity-name {name} --add-config cleanup.policy=delete" in serious[list(serious)[1]]
    assert [flaw.text for flaw in found if not flaw.serious] == [f"{events} has 2 partitions, not 1."]


def test_doctor_says_what_is_wrong_with_the_topics_and_makes_none(
    open_log: Open, admin: KafkaAdminClient, kafka_address: str, model: str, tmp_path: Path
) -> None:
    flags = {"broker": f"kafka://{kafka_address}", "model.name": model, "state_dir": str(tmp_path)}
    settings = load(flags=flags)
    found = doctor.topics(settings)
    assert found.standing == "careful"
    assert f"stream_ft.{model}.control is not there yet." in found.text
    assert doctor.topics(settings) == found, "nothing was made"
    admin.create_topics({f"stream_ft.{model}.control": {"num_partitions": 2, "replication_factor": 1}})
    found = doctor.topics(settings)
    assert found.standing == "broken"
    assert f"stream_ft.{model}.control has 2 partitions, not 1." in found.text
    assert "not there yet" not in found.text, "what is worse is not hidden among what is not"
    assert found.remedy

    other = f"{model}a"
    open_log().prepare([topic(other, kind) for kind in KINDS])
    assert doctor.topics(load(flags=flags | {"model.name": other})).standing == "good"


def test_doctor_does_not_wait_for_a_broker_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BROKER_S", 0.5)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        found = doctor.topics(load(flags={"broker": f"kafka://{address}", "state_dir": str(tmp_path)}))
    assert found.standing == "broken"
    assert address in found.text


def test_what_another_process_appends_comes_and_is_told(open_log: Open, model: str) -> None:
    ours, theirs, name = open_log(), open_log(), f"stream_ft.{model}.feedback"
    theirs.append([Outgoing(topic=name, value=b"1")])
    assert values(ours, name) == [b"1"]
    ours.changed()
    assert not ours.changed()
    theirs.append([Outgoing(topic=name, value=b"2")])
    wait_for("the news", ours.changed, 5)
    assert values(ours, name, offset=1) == [b"2"]


def test_a_key_keeps_its_partition_and_all_partitions_are_read(open_log: Open, model: str) -> None:
    log, name = open_log(partitions=4), f"stream_ft.{model}.feedback"
    for number in range(3):
        log.append([Outgoing(topic=name, key=b"%d" % key, value=b"%d:%d" % (key, number)) for key in range(20)])
    by_partition = [values(log, name, partition) for partition in log.partitions(name)]
    assert sorted(value for found in by_partition for value in found) == sorted(
        b"%d:%d" % (key, n) for key in range(20) for n in range(3)
    )
    assert sum(1 for found in by_partition if found) > 1
    for found in by_partition:
        for key in {value.split(b":")[0] for value in found}:
            assert [value for value in found if value.split(b":")[0] == key] == [key + b":%d" % n for n in range(3)]


def test_a_message_that_is_too_large_is_told_before_anything_is_sent(open_log: Open, model: str) -> None:
    log, name = open_log(max_message_bytes=50_000), f"stream_ft.{model}.feedback"
    log.append([Outgoing(topic=name, value=b"0")])
    with pytest.raises(MessageTooLargeError, match=r"51000 bytes .* takes 50000") as told:
        log.append([Outgoing(topic=name, value=b"1"), Outgoing(topic=name, value=b"x" * 51_000)])
    assert told.value.index == 1
    assert values(log, name) == [b"0"]
    # A dead letter is an event and its reason: its topic takes more.
    dead = f"stream_ft.{model}.dlq"
    log.append([Outgoing(topic=dead, value=b"x" * 49_000, headers=(("why", b"y" * 40_000),))])
    assert len(values(log, dead)[0]) == 49_000


def test_a_topic_that_takes_less_than_is_configured_is_told(
    open_log: Open, admin: KafkaAdminClient, model: str
) -> None:
    name = f"stream_ft.{model}.feedback"
    admin.create_topics(
        {name: {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}}
    )
    log = open_log()
    with pytest.raises(MessageTooLargeError, match="Kafka refuses a message of 5000 bytes"):
        log.append([Outgoing(topic=name, value=b"x" * 5_000)])
    assert log.append([Outgoing(topic=name, value=b"small")]) == [0]


def test_a_deleted_topic_is_an_error_and_is_not_made_again(open_log: Open, admin: KafkaAdminClient, model: str) -> None:
    log, name = open_log(), f"stream_ft.{model}.feedback"
    log.append([Outgoing(topic=name, value=b"%d" % number) for number in range(5)])
    assert len(values(log, name)) == 5
    admin.delete_topics([name])

    def gone() -> bool:
        try:
            log.log_id(name)
        except LogTruncatedError as error:
            return "was deleted" in error.message
        return False

    wait_for("that it is gone", gone, 10)
    for call in (lambda: log.read(name, 0, 5, 10), lambda: log.append([Outgoing(topic=name, value=b"6")])):
        with pytest.raises(LogTruncatedError, match="was deleted"):
            call()
    assert name not in admin.list_topics()


def test_no_record_of_another_topic_with_the_same_name_is_handed_out(
    open_log: Open, admin: KafkaAdminClient, model: str
) -> None:
    log, name = open_log(), f"stream_ft.{model}.feedback"
    log.append([Outgoing(topic=name, value=b"old %d" % number) for number in range(5)])
    before = log.log_id(name)
    assert len(values(log, name)) == 5
    admin.delete_topics([name])
    other = open_log()
    wait_for("that it is gone", lambda: name not in admin.list_topics(), 10)
    other.append([Outgoing(topic=name, value=b"new %d" % number) for number in range(50)])

    def told() -> bool:
        try:
            assert log.read(name, 0, 5, 10) == []
        except LogTruncatedError as error:
            return "replaced" in error.message or "deleted" in error.message
        return False

    wait_for("that it is another one", told, 10)
    wait_for("its identity", lambda: log.log_id(name) != before, 10)


def test_positions_are_shown_to_lag_displays(open_log: Open, admin: KafkaAdminClient, model: str) -> None:
    group = f"stream_ft.{model}.learn"
    log, name = open_log(group=group), f"stream_ft.{model}.feedback"
    log.append([Outgoing(topic=name, value=b"%d" % number) for number in range(7)])
    log.read(name, 0, 0, 3)

    def committed() -> int:
        try:
            found = admin.list_group_offsets([group])[group].get(TopicPartition(name, 0))
        except RetriableError:  # the group's coordinator is made with the first commit
            return -1
        return -1 if found is None else int(found.offset)

    wait_for("the position", lambda: committed() == 3, 20)
    assert values(open_log(group=group), name)[0] == b"0", "nobody reads it back"


def test_a_reader_that_does_not_come_back_for_more_bounds_what_waits(open_log: Open, model: str) -> None:
    from stream_ft.connectors.kafka_reader import CHUNK, ENOUGH

    log, name = open_log(), f"stream_ft.{model}.feedback"
    count = ENOUGH * 2
    log.append([Outgoing(topic=name, value=b"%d" % number) for number in range(count)])
    assert [record.value for record in log.read(name, 0, 0, 1)] == [b"0"]
    feed = log._reader._feeds[TopicPartition(name, 0)]
    wait_for("the pause", lambda: feed.paused, 20)
    time.sleep(0.3)
    assert ENOUGH - 1 <= len(feed.waiting) <= ENOUGH + CHUNK  # the read may have taken its one after the pause
    assert values(log, name, offset=1) == [b"%d" % number for number in range(1, count)]
    wait_for("the resumption", lambda: not feed.paused, 5)


def test_where_no_broker_is_every_call_says_so_in_time(open_log: Open) -> None:
    log = open_log("127.0.0.1:1", deadline_s=1.0)
    name = "stream_ft.m.feedback"
    began = time.monotonic()
    with pytest.raises(LogAwayError, match="does not answer"):
        log.read(name, 0, 0, 1)
    assert time.monotonic() - began < 5
    began = time.monotonic()
    calls: list[Callable[[], object]] = [
        lambda: log.read(name, 0, 0, 1),
        lambda: log.append([Outgoing(topic=name, value=b"1")]),
        lambda: log.bounds(name, 0),
        lambda: log.log_id(name),
        lambda: log.partitions(name),
    ]
    for call in calls:
        with pytest.raises(LogAwayError, match="does not answer"):
            call()
    assert time.monotonic() - began < 1, "what is known to be away is not waited for again"


@pytest.mark.parametrize("url", ["kafka://", "kafka://host", "kafka://host:0", "kafka:/host:1", "kafka://a:1,b", ""])
def test_urls_that_name_no_cluster_are_refused(url: str, tmp_path: Any) -> None:
    from stream_ft.connectors.kafka import open_log

    with pytest.raises(ConfigError, match="not the URL"):
        open_log(url, folder=tmp_path, writes=[], options=KafkaSettings().model_dump())


def test_security_without_a_user_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a user"):
        read_options(KafkaSettings(security="sasl_ssl").model_dump())
