"""docs/first-event.md: each command is run as it is typed, against a real broker, and read back as ingest reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import running
from serving_parts import Serving

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.dead_letters import dead_letter
from stream_ft.events import Event, Feedback, LabelCorrection, LabelledEvent, Reject
from stream_ft.ingest.receive import received
from stream_ft.topics import topic

PAGE = (Path(__file__).parents[2] / "docs" / "first-event.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
KCAT = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed: its commands are not tried")


class Published:
    """A model's topics on the broker, and what was published to them."""

    def __init__(self, address: str) -> None:
        self.model = f"m{uuid.uuid4().hex[:10]}"
        self.address = address
        self.log = KafkaLog(address, read_options(KafkaSettings().model_dump()))
        assert not self.log.prepare([topic(self.model, kind) for kind in ("feedback", "labels", "dlq")])

    def fitted(self, text: str) -> str:
        """A snippet with this broker and this model."""
        return text.replace("localhost:9092", self.address).replace("stream_ft.default.", f"stream_ft.{self.model}.")

    def shell(self, command: str) -> str:
        """Run a command as it is typed; what it printed."""
        done = subprocess.run(
            ["bash", "-c", self.fitted(command)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def events(self, kind: str) -> list[tuple[bytes | None, Event | Reject]]:
        """Key and event of each record."""
        records = self.log.read(topic(self.model, kind), 0, 0, 100)
        return [(record.key, received(record, now=record.appended_at)[1]) for record in records]


@pytest.fixture
def published(kafka_address: str) -> Iterator[Published]:
    made = Published(kafka_address)
    yield made
    made.log.close()


def test_docs_have_commands_for_all_three_ways() -> None:
    assert [("kcat -P" in block, "kcat -C" in block) for block in SHELL] == [
        (False, False), (True, False), (True, False), (True, False), (False, True),
    ]  # fmt: skip
    assert ["KafkaProducer" in block for block in PYTHON] == [True, False]


@KCAT
@pytest.mark.kafka
def test_feedback_by_kcat(published: Published) -> None:
    for command in SHELL[1:3]:
        published.shell(command)
    (first, plain), (second, cloud) = published.events("feedback")
    assert first == second == b"p-1"
    assert isinstance(plain, Feedback)
    assert isinstance(cloud, Feedback)
    assert (plain.id, plain.source, plain.correction) == ("f-1", "shop", LabelCorrection(label="refund_status"))
    assert (cloud.id, cloud.source, cloud.correction) == ("f-2", "shop", LabelCorrection(label="delivery_status"))


@KCAT
@pytest.mark.kafka
def test_labels_and_dead_letters_by_kcat(published: Published) -> None:
    published.shell(SHELL[3])
    ((_, event),) = published.events("labels")
    assert isinstance(event, LabelledEvent)
    assert (event.id, event.source, event.origin) == ("ticket-4711", "crm", "label_topic")
    (record,) = published.log.read(topic(published.model, "labels"), 0, 0, 1)
    refused = Reject(stage="identity", reason="identity_conflict", detail="Another event came with this id.")
    published.log.append([dead_letter(record, refused, topic(published.model, "dlq"))])
    told = published.shell(SHELL[4])
    assert "__connect.errors.exception.class.name=identity_conflict" in told
    assert record.value.decode() in told


@pytest.mark.kafka
def test_feedback_by_kafka_python(published: Published) -> None:
    exec(compile(published.fitted(PYTHON[0]), "first-event.md", "exec"), {})
    ((key, event),) = published.events("feedback")
    assert isinstance(event, Feedback)
    assert (key, event.id, event.prediction_id) == (b"p-1", "f-3", "p-1")


def test_feedback_by_the_client_and_a_prediction_by_curl(tmp_path: Path) -> None:
    with Serving(tmp_path / "serving") as serving:
        serving.genesis("delivery_status", "refund_status")
        with running(serving.app) as url:
            exec(PYTHON[1].replace('"http://127.0.0.1:8080"', repr(url)), {})
            asked = SHELL[0].replace("localhost:8080", url.removeprefix("http://"))
            done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60, check=True)
        assert len(serving.written("feedback")) == 1
        assert '"id"' in done.stdout
