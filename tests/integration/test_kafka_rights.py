"""deploy/kafka/acls.sh on a broker with SASL and ACLs: each role can do its work as its own principal, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from broker import PASSWORDS, Broker
from docs_page import ROOT
from house import QUICK, WORDS, free_port, wait_for
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

from stream_ft.connectors.kafka_link import opened

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]
PRINCIPALS = {
    "SERVE": "server",
    "LEARN": "learner",
    "INGEST": "ingest",
    "OPERATOR": "operator",
    "PUBLISHER": "publisher",
    "MONITORING": "monitoring",
}
"""User of the broker by the script's name for a role."""


def give_rights(broker: Broker, folder: Path) -> None:
    """Run the script, with Kafka's own tool."""
    tool = folder / "kafka-acls.sh"
    libs = Path(os.environ["KAFKA_HOME"]).resolve() / "libs"
    java = f'java -Xmx64m -Xshare:auto -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "{libs}/*"'
    tool.write_text(f'#!/bin/sh\nexec {java} org.apache.kafka.tools.AclCommand "$@"\n')
    tool.chmod(0o755)
    admin = folder / "admin.properties"
    admin.write_text(
        "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n"
        "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="admin" password="{PASSWORDS["admin"]}";\n'
        f"ssl.truststore.type=PEM\nssl.truststore.location={broker.ca}\n"
    )
    given = {name: f"User:{user}" for name, user in PRINCIPALS.items()}
    done = subprocess.run(
        [ROOT / "deploy" / "kafka" / "acls.sh"],
        env=os.environ
        | given
        | {"PATH": f"{folder}:{os.environ['PATH']}", "BOOTSTRAP": broker.address, "ADMIN": str(admin)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Roles:
    """Processes, each with its own principal."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.ports = {"serve": free_port(), "learn": free_port(), "ingest": free_port()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, user: str, state: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAM_FT_")}
        settings = QUICK | self.broker.environment(user) | {
            "STATE_DIR": str(self.folder / state),
            "REGISTRY_DIR": str(self.folder / "registry"),
            "LEARN__READS": "ingested",
            **{f"{role.upper()}__PORT": str(port) for role, port in self.ports.items()},
        }  # fmt: skip
        return own | {f"STREAM_FT_{name}": value for name, value in settings.items()}

    def start(self, role: str, user: str) -> None:
        with (self.folder / f"{role}.log").open("wb") as output:
            self.processes[role] = subprocess.Popen(
                [sys.executable, "-m", "stream_ft", role],
                env=self.environment(user, role),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self, role: str) -> None:
        def check() -> bool:
            assert self.processes[role].poll() is None, self.log(role)
            try:
                url = f"http://127.0.0.1:{self.ports[role]}/readyz"
                return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(f"{role} ready", check, 240, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(role)}") from error

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text("utf-8", "replace")[-3000:]

    def type(self, *words: str, user: str = "operator", state: str = "serve") -> subprocess.CompletedProcess[str]:
        """One command of the program, as a principal."""
        return subprocess.run(
            [sys.executable, "-m", "stream_ft", *words],
            env=self.environment(user, state),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def version(self) -> str:
        rows = self.get("/versions")["versions"]
        return next((str(row["version"]) for row in rows if row["active"]), "")

    def answer(self) -> str:
        url = f"http://127.0.0.1:{self.ports['serve']}/predict"
        told = httpx.post(url, json={"inputs": ["where is my parcel"]}, timeout=15.0, trust_env=False).json()
        return str(told["predictions"][0]["label"])

    def get(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.ports['serve']}{path}", timeout=15.0, trust_env=False).json()


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    folder = tmp_path_factory.mktemp("rights")
    with Broker(folder / "broker", secure=True) as broker:
        give_rights(broker, folder)
        made = Roles(broker, folder)
        try:
            # At once, as an orchestrator does: the others wait until the learner has made the topics.
            made.start("serve", "server")
            made.start("ingest", "ingest")
            made.start("learn", "learner")
            for role in ("learn", "serve", "ingest"):
                made.ready(role)
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.wait(30)


def send(roles: Roles, user: str, kind: str, count: int = 1) -> None:
    """Publish labelled events as a principal; raises what the broker answers."""
    producer = opened(KafkaProducer, within_s=15.0, **roles.broker.client(user))
    try:
        for number in range(count):
            name = sorted(WORDS)[number % len(WORDS)]
            event = {"id": f"{user}-{number}", "input": WORDS[name].format(number), "label": name, "source": user}
            producer.send(f"stream_ft.default.{kind}", json.dumps(event).encode()).get(30)
    finally:
        producer.close()


def test_what_an_application_publishes_is_learned_and_answered(roles: Roles) -> None:
    send(roles, "publisher", "labels", 60)
    wait_for("an answer of a version that learned", lambda: roles.answer() in WORDS, 120, every=0.5)


def test_an_operator_rolls_back_and_a_server_may_not(roles: Roles) -> None:
    before = roles.version()
    refused = roles.type("control", "rollback", "--reason", "not mine", user="server")
    assert refused.returncode != 0
    assert "server" in refused.stderr
    assert "stream_ft.default.control" in refused.stderr
    assert "rights" in refused.stderr
    assert len(refused.stderr) < 500, "a sentence, not a protocol"
    done = roles.type("control", "rollback", "--reason", "mine")
    assert done.returncode == 0, done.stderr
    wait_for("the version before", lambda: roles.version() != before, 30)


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("publisher", "control"),
        ("publisher", "events"),
        ("ingest", "control"),
        ("server", "dlq"),
        ("monitoring", "labels"),
    ],
)
def test_nobody_writes_what_is_not_theirs(roles: Roles, user: str, kind: str) -> None:
    # One that may write nothing at all is not even given the id of a producer: that is refused for the cluster.
    with pytest.raises(KafkaError, match="AuthorizationFailed"):
        send(roles, user, kind)


def test_who_displays_lag_sees_how_far_learner_and_ingest_have_read(roles: Roles) -> None:
    admin = opened(KafkaAdminClient, within_s=15.0, **roles.broker.client("monitoring"))
    try:

        def read(group: str, kind: str) -> bool:
            told = admin.list_group_offsets([group])[group]
            return any(place.topic == f"stream_ft.default.{kind}" and at.offset > 0 for place, at in told.items())

        wait_for("the learner's", partial(read, "stream_ft.default.learn", "events"), 30, every=0.5)
        wait_for("ingest's", partial(read, "stream_ft.default.ingest", "labels"), 30, every=0.5)
    finally:
        admin.close()
