"""What a cluster says of topics, asked from several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka_catalog import FRESH_S, Catalog
from stream_ft.connectors.kafka_link import Link, read_options
from stream_ft.errors import LogTruncatedError

NAME = "stream_ft.m.feedback"
PRESENT = {"name": NAME, "error_code": 0, "topic_id": "an-id", "partitions": [{"partition_index": 0}]}
ABSENT = {"name": NAME, "error_code": 3, "topic_id": "", "partitions": []}


class Admin:
    """Answers in order; what happens between a question and its answer can be given."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.meanwhile: Callable[[], None] = lambda: None

    def describe_cluster(self) -> dict[str, str]:
        return {"cluster_id": "a-cluster"}

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        assert list(names) == [NAME]
        answer = self.answers.pop(0)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return [answer]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def catalog(admin: Admin, clock: Clock) -> Catalog:
    options = read_options(KafkaSettings().model_dump())
    link = Link("broker:9092", options, monotonic=clock)
    link.call = lambda ask, *, probe=False: ask(admin)  # type: ignore[method-assign, assignment, arg-type]
    return Catalog(link, options, monotonic=clock)


def test_an_answer_of_before_a_topic_was_made_does_not_make_it_a_deleted_one() -> None:
    admin, clock = Admin(ABSENT, PRESENT), Clock()
    seen = catalog(admin, clock)
    admin.meanwhile = lambda: seen.look([NAME])
    assert seen.seen(NAME).id == "an-id"


def test_a_topic_that_is_gone_when_it_is_asked_for_again_was_deleted() -> None:
    admin, clock = Admin(PRESENT, ABSENT), Clock()
    seen = catalog(admin, clock)
    assert seen.seen(NAME).partitions == (0,)
    clock.now += FRESH_S
    with pytest.raises(LogTruncatedError, match="was deleted"):
        seen.seen(NAME)


def test_a_topic_that_never_was_there_is_merely_absent() -> None:
    assert catalog(Admin(ABSENT), Clock()).seen(NAME).id == ""


def test_a_topic_that_another_thread_makes_while_its_absence_is_remembered_was_not_deleted() -> None:
    admin, clock = Admin(ABSENT, PRESENT), Clock()
    seen = catalog(admin, clock)
    assert not seen.seen(NAME).id
    tick = clock.__call__

    def meanwhile() -> float:
        seen._monotonic = tick
        seen.look([NAME])
        return tick()

    seen._monotonic = meanwhile
    assert seen.seen(NAME).id == "an-id"
