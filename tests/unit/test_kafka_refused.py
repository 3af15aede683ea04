"""What is said when a broker refuses a principal."""

from __future__ import annotations

import time

from kafka.errors import ClusterAuthorizationFailedError, TopicAuthorizationFailedError

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka_link import Link, read_options

QUOTED = (
    "Request 'CreateTopicsRequest(topics=[CreatableTopic(name='stream_ft.shop.control', num_partitions=1)])' "
    "failed with response 'CreateTopicsResponse(topics=[CreatableTopicResult(name='stream_ft.shop.control')])'."
)


def link() -> Link:
    settings = KafkaSettings(security="sasl_plaintext", username="ann", password="x")
    return Link("broker:9092", read_options(settings.model_dump()), monotonic=time.monotonic)


def test_a_refusal_says_what_was_asked_of_which_topic_and_where_the_rights_are() -> None:
    said = str(link().refused(TopicAuthorizationFailedError(QUOTED)))
    assert "refuses ann: TopicAuthorizationFailedError: CreateTopics, stream_ft.shop.control." in said
    assert "deploy/kafka/acls.sh" in said
    assert "num_partitions" not in said


def test_a_refusal_that_quotes_nothing_is_told_as_it_is() -> None:
    assert "ClusterAuthorizationFailedError" in str(link().refused(ClusterAuthorizationFailedError()))
