"""deploy/compose.yaml: its services start with its own commands and environments, and an event goes all the way."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from compose_house import DEPLOY, Compose
from house import wait_for

from stream_ft.config import KafkaSettings
from stream_ft.connectors.kafka import KafkaLog
from stream_ft.connectors.kafka_link import read_options
from stream_ft.ports import Outgoing
from stream_ft.topics import topic

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    pytest.mark.timeout(480),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives each service a loopback address of its own"),
]
ROLES = ("serve-1", "serve-2", "learn", "ingest")
TOKEN = "sesame-open-the-door"
KNOWN = {
    line.split("\t")[1]
    for line in (DEPLOY.parent / "stream_ft/demo/shop_stream.tsv").read_text("utf-8").splitlines()[1:]
}
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)
"""Of a process that ended when it was told to; the replayer has nothing to put away, and leaves that to the system."""


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    if shutil.which("prometheus") is None:
        pytest.skip("there is no prometheus (apt install prometheus)")
    with Compose(tmp_path_factory.mktemp("compose"), STREAM_FT_TOKEN=TOKEN, GRAFANA_PASSWORD="unused") as made:
        made.start_kafka()
        for name in ROLES:
            made.start(name)
        made.start_prometheus()
        for name in (*ROLES, "prometheus"):
            made.healthy(name)
        yield made


class Prometheus:
    """What the file's Prometheus says."""

    def __init__(self, compose: Compose) -> None:
        self._http = httpx.Client(base_url=f"http://{compose.addresses['prometheus']}:9090/api/v1", trust_env=False)

    def close(self) -> None:
        """Ask no more."""
        self._http.close()

    def targets(self) -> list[dict[str, Any]]:
        """Active targets."""
        found: list[dict[str, Any]] = self._http.get("/targets").json()["data"]["activeTargets"]
        return found

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query brings now."""
        found: list[dict[str, Any]] = self._http.get("/query", params={"query": query}).json()["data"]["result"]
        return found

    def value(self, query: str) -> float:
        """Of a query with one row; 0 where there is none."""
        rows = self.rows(query)
        assert len(rows) <= 1, query
        return float(rows[0]["value"][1]) if rows else 0.0


@pytest.fixture(scope="module")
def prometheus(compose: Compose) -> Iterator[Prometheus]:
    made = Prometheus(compose)
    yield made
    made.close()


@pytest.fixture(scope="module")
def log(compose: Compose) -> Iterator[KafkaLog]:
    assert compose.broker is not None
    made = KafkaLog(compose.broker.address, read_options(KafkaSettings().model_dump()))
    yield made
    made.close()


def records(log: KafkaLog, kind: str) -> int:
    """How many a topic has."""
    name = topic("default", kind)
    return sum(end - start for start, end in (log.bounds(name, part) for part in log.partitions(name)))


def client(compose: Compose, name: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://{compose.addresses[name]}:8080",
        headers={"authorization": f"Bearer {TOKEN}"},
        trust_env=False,
        timeout=15.0,
    )


def test_every_target_of_the_file_is_up(compose: Compose, prometheus: Prometheus) -> None:
    wanted = {f"{compose.addresses[name]}:{port}" for name, port in zip(ROLES, (8080, 8080, 8081, 8082), strict=True)}
    wait_for("every target", lambda: {one["health"] for one in prometheus.targets()} == {"up"}, 120)
    assert {one["labels"]["instance"] for one in prometheus.targets()} == wanted


def test_a_replica_wants_the_token_and_takes_feedback_on_an_answer_of_the_other(
    compose: Compose, log: KafkaLog
) -> None:
    with client(compose, "serve-1") as one, client(compose, "serve-2") as other:
        assert one.post("/predict", json={"inputs": ["hello"]}, headers={"authorization": "none"}).status_code == 401
        answer = one.post("/predict", json={"inputs": ["write to me at jo@example.org"]}).json()
        ident = answer["predictions"][0]["id"]
        told = other.post("/feedback", json={"prediction_id": ident, "label": "contact", "id": "f-1"})
        assert told.status_code == 202, told.text
        wait_for("both at ingest's topic", lambda: records(log, "events") >= 2, 120)
        # The console of any replica asks the learner by its name.
        assert other.get("/status").json()["learn"]
    name = topic("default", "events")
    whole = b"".join(record.value for record in log.read(name, 0, 0, 100))
    assert b"jo@example.org" not in whole, "the file asks for redaction"
    assert ident.encode() in whole


def test_what_the_replayer_plays_is_learned_and_answered_by_both_replicas(
    compose: Compose, prometheus: Prometheus, log: KafkaLog
) -> None:
    before = records(log, "events")
    compose.start("replayer")
    wait_for("labels", lambda: records(log, "labels") > 0, 120)
    assert records(log, "predictions") > 0
    wait_for("ingest", lambda: records(log, "events") > before + 20, 120)
    taken = 'sum(stream_ft_consumer_records_total{topic="events"})'
    wait_for("the learner", lambda: prometheus.value(taken) > 20, 120)
    wait_for("its examples", lambda: prometheus.value("sum(stream_ft_examples)") > 20, 120)
    promoted = "min(stream_ft_active_epoch) > 1 and min(stream_ft_active_epoch) == max(stream_ft_active_epoch)"
    wait_for("a promotion at both replicas", lambda: prometheus.value(promoted), 120)
    wait_for("its classes, scraped", lambda: prometheus.value("max(stream_ft_classes)") > 1, 120)
    with client(compose, "serve-1") as one, client(compose, "serve-2") as other:
        for replica in (one, other):
            answer = replica.post("/predict", json={"inputs": ["where is my parcel?"]}).json()
            assert answer["predictions"][0]["label"] in KNOWN
    compose.alive()


def test_the_panels_of_the_ingest_workers_have_rows(prometheus: Prometheus, log: KafkaLog) -> None:
    """Those that an embedded system has nothing to show on."""
    board = json.loads((DEPLOY.parent / "grafana" / "dashboards" / "streaming.json").read_text("utf-8"))
    queries = {
        panel["title"]: target["expr"].replace("$model", "default").replace("$__rate_interval", "20s")
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if "stream_ft_ingest_" in target["expr"]
    }
    for title in ("Lag of the ingest workers", "Ingest workers that stand still", "Refused by the ingest workers"):
        assert title in queries
    log.append([Outgoing(topic=topic("default", "feedback"), value=b"no event")])
    for title, query in queries.items():
        wait_for(title, partial(prometheus.rows, query), 120)
    refused = f"sum({queries['Refused by the ingest workers']})"
    log.append([Outgoing(topic=topic("default", "feedback"), value=b"nor is this")])  # an increase, once it is scraped
    wait_for("what was refused", lambda: prometheus.value(refused) > 0, 120)


def test_a_service_that_docker_stops_ends_by_itself_in_time(compose: Compose) -> None:
    for name in ("replayer", "ingest", "learn", "serve-1", "serve-2"):
        assert compose.stop(name) in STOPPED, compose.log(name)
