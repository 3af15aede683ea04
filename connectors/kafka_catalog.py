"""What a cluster says of the topics in use; those that are missing are made, once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka.admin import ConfigResource
from kafka.errors import KafkaError, TopicAlreadyExistsError
from msgspec import Struct

from stream_ft.errors import ConfigError, LogAwayError, LogTruncatedError
from stream_ft.ports import Flaw

from .kafka_link import Link, Options
from .kafka_topics import Layout, flaws, layout

log = logging.getLogger("stream_ft.kafka")

FRESH_S = 5.0
"""What was seen of a topic counts for this long."""
ABSENT_S = 0.2
"""That it is not there, for this long."""
REFUSED = 29
"""Kafka's code for a topic that the principal may not see."""


class Topic(Struct, frozen=True, kw_only=True):
    """A topic as it was seen; ``id`` is empty if it is not there."""

    id: str
    partitions: tuple[int, ...]
    seen_at: float


class Catalog:
    """Topics of one cluster. Safe to use from threads.

    Args:
        link: to the cluster.
        options: how topics are made.
        monotonic: time.
    """

    def __init__(self, link: Link, options: Options, *, monotonic: Callable[[], float]) -> None:
        self._link = link
        self._options = options
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._ids: dict[str, str] = {}
        """Id of every topic that this process has ever seen: one that is gone is not made again."""
        self.cluster = ""
        """Id of the cluster, once it has been asked."""

    def expect(self, name: str, identity: str) -> None:
        """A topic was seen before, by a predecessor of this process."""
        with self._lock:
            self._ids.setdefault(name, identity)

    def seen(self, name: str) -> Topic:
        """A topic as it is.

        Raises:
            LogTruncatedError: it was there, and is gone.
            LogAwayError: nobody can say, or the principal may not see it.
        """
        with self._lock:
            seen = self._topics.get(name)
        if seen is None or self._monotonic() - seen.seen_at > (FRESH_S if seen.id else ABSENT_S):
            self.look([name])
        with self._lock:  # both at once: another thread may have made it in this moment
            seen = self._topics[name]
            gone = not seen.id and name in self._ids
        if gone:
            raise deleted(name)
        return seen

    def existing(self, name: str) -> Topic:
        """A topic that is there, created if it never was."""
        seen = self.seen(name)
        if not seen.id:
            self._create(name)
            seen = self.seen(name)
        return seen

    def look(self, names: Sequence[str]) -> None:
        """See what the cluster says of topics, and of itself the first time."""
        if not self.cluster:
            cluster = self._link.call(lambda admin: admin.describe_cluster())["cluster_id"]
            self.cluster = str(cluster)
        asked_at = self._monotonic()
        self._note(self._link.call(lambda admin: admin.describe_topics(list(names))), asked_at)

    def look_again(self) -> bool:
        """See all topics in use anew; true if one is not what it was. One attempt.

        Raises:
            LogAwayError: the cluster does not answer.
        """
        with self._lock:
            before = dict(self._topics)
        asked_at = self._monotonic()
        self._note(self._link.call(lambda admin: admin.describe_topics(list(before)), probe=True), asked_at)
        with self._lock:
            return any(self._topics[name].id != topic.id for name, topic in before.items())

    def there(self, name: str) -> bool:
        """Whether a topic was there when it was last seen."""
        with self._lock:
            return name in self._topics and bool(self._topics[name].id)

    def _note(self, told: Sequence[Mapping[str, Any]], asked_at: float) -> None:
        now = self._monotonic()
        with self._lock:
            for row in told:
                if row["error_code"] == REFUSED:
                    raise LogAwayError(
                        f"Kafka at {self._link.address} does not let {self._options.username} see {row['name']}.",
                        "Give the principal its rights: deploy/kafka/acls.sh has those of each role.",
                    )
                gone = row["error_code"] != 0
                before = self._topics.get(row["name"])
                if gone and before is not None and before.id and asked_at < before.seen_at:
                    continue  # the question is older than the topic: another thread has seen it made since
                identity = "" if gone else str(row["topic_id"])
                parts = tuple(sorted(part["partition_index"] for part in row["partitions"])) or (0,)
                self._topics[row["name"]] = Topic(id=identity, partitions=parts, seen_at=now)
                if identity:
                    self._ids.setdefault(row["name"], identity)

    def _create(self, name: str) -> None:
        wanted = self._layout(name)
        spec = {
            "num_partitions": wanted.partitions,
            "replication_factor": self._options.replication or -1,
            "configs": dict(wanted.configs),
        }
        try:
            self._link.call(lambda admin: admin.create_topics({name: spec}))
            log.info("created the topic %s", name)
        except TopicAlreadyExistsError:
            pass  # another process was first
        except KafkaError as error:
            raise ConfigError(f"Kafka does not create {name}: {error}.", "Check kafka.replication.") from error
        self._link.call(lambda admin: admin.wait_for_topics([name]))
        self.look([name])

    def _layout(self, name: str) -> Layout:
        options = self._options
        return layout(
            name,
            partitions=options.partitions,
            retention_hours=options.retention_hours,
            dead_letter_hours=options.dead_letter_hours,
            max_message_bytes=options.max_message_bytes,
        )

    def examine(self, topics: Sequence[str]) -> list[Flaw]:
        """See the port."""
        self.look(topics)
        there = [name for name in topics if self._topics[name].id]
        found = [
            Flaw(topic=name, serious=True, text=f"{name} was deleted.", remedy="Restore it, or run stream-ft reset.")
            if name in self._ids
            else Flaw(topic=name, serious=False, text=f"{name} is not there yet.", remedy="stream-ft learn creates it.")
            for name in topics
            if name not in there
        ]
        resources = [ConfigResource("TOPIC", name) for name in there]
        told: Mapping[str, Mapping[str, Any]] = (
            self._link.call(lambda admin: admin.describe_configs(resources, config_filter="all")).get("topic", {})
            if there
            else {}
        )
        for name in there:
            configs = {key: str(row["value"]) for key, row in told.get(name, {}).items()}
            count = len(self._topics[name].partitions)
            found += flaws(name, self._layout(name), partitions=count, configs=configs)
        return found


def deleted(name: str) -> LogTruncatedError:
    """What to raise for a topic that was there and is gone."""
    return LogTruncatedError(f"The topic {name} was deleted.", "Restore it, or run stream-ft reset to begin anew.")
