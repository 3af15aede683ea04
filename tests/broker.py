"""A real Apache Kafka (KRaft, one node) on loopback for the tests: started, killed, frozen and revived.

It runs from ``$KAFKA_HOME/libs``, the folder of an unpacked distribution, and needs Java. ``$KAFKA_BOOTSTRAP`` names a
broker that is there already, for the tests that disturb nobody.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from stream_ft.connectors.kafka_link import opened

START_S = 60.0
PASSWORDS = {
    name: f"{name}-secret" for name in ("admin", "operator", "learner", "server", "ingest", "publisher", "monitoring")
}
"""Of the users of a secure broker."""
STORE_PASSWORD = "changeit"


def missing() -> str:
    """Why no broker can be started here, in one line; empty if one can."""
    home = os.environ.get("KAFKA_HOME", "")
    if not home:
        return (
            "KAFKA_HOME is not set: no test of a real Kafka broker runs (or give the address of one in KAFKA_BOOTSTRAP)"
        )
    if not any(Path(home, "libs").glob("kafka*.jar")):
        return f"KAFKA_HOME={home} has no libs/kafka*.jar: no test of a real Kafka broker runs"
    if shutil.which("java") is None:
        return "There is no java to run KAFKA_HOME with: no test of a real Kafka broker runs"
    return ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


class Broker:
    """One broker. Its data stay in the folder, so that it comes back with them.

    Args:
        folder: for data and logs; should not exist.
        secure: SASL_SSL with PLAIN and ACLs; :data:`PASSWORDS` has the users, ``ca`` the authority.
        settings: of the broker, over those here.
        at: host and port at which ``settings`` make it listen; otherwise free ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        secure: bool = False,
        settings: Mapping[str, object] | None = None,
        at: tuple[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.secure = secure
        self.ca = folder / "ca.pem"
        self._more = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._port, self._controller = free_ports(2)
        self._host = "127.0.0.1"
        if at is not None:
            self._host, self._port = at
        if secure:
            self._make_certificates()
        self._write_settings()
        self._format()

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self._host}:{self._port}"

    @property
    def url(self) -> str:
        """For the setting ``broker``."""
        return f"kafka://{self.address}"

    def client(self, user: str = "admin") -> dict[str, Any]:
        """What a client of kafka-python needs to connect."""
        plain: dict[str, Any] = {"bootstrap_servers": self.address}
        return (
            plain
            if not self.secure
            else plain
            | {
                "security_protocol": "SASL_SSL",
                "ssl_cafile": str(self.ca),
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": user,
                "sasl_plain_password": PASSWORDS[user],
            }
        )

    def environment(self, user: str = "admin") -> dict[str, str]:
        """Settings of our processes, without the prefix ``STREAM_FT_``."""
        plain = {"BROKER": self.url}
        return (
            plain
            if not self.secure
            else plain
            | {
                "KAFKA__SECURITY": "sasl_ssl",
                "KAFKA__CA_FILE": str(self.ca),
                "KAFKA__USERNAME": user,
                "KAFKA__PASSWORD": PASSWORDS[user],
            }
        )

    def admin(self, **more: Any) -> KafkaAdminClient:
        """A client that may do anything; the caller closes it."""
        return opened(KafkaAdminClient, within_s=10.0, **self.client(), **more)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # --- what is done to it ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, the first time or again, and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of its log.
        """
        with (self.folder / "broker.log").open("ab") as out:
            self._process = self._java("256m", "kafka.Kafka", str(self._settings_file), stdout=out, stderr=out)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self._port)):
                    time.sleep(0.05)
                    continue
            try:
                admin = self.admin(bootstrap_timeout_ms=2_000, request_timeout_ms=3_000)
            except (KafkaError, OSError):
                continue
            try:
                if admin.describe_cluster()["brokers"]:
                    return
            except (KafkaError, OSError):
                time.sleep(0.05)
            finally:
                admin.close()
        self.kill()
        told = (self.folder / "broker.log").read_text("utf-8", "replace").splitlines()[-20:]
        raise RuntimeError("the broker did not start:\n" + "\n".join(told))

    def stop(self) -> None:
        """End it cleanly."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9; harmless when it has ended."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: the connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def segments(self, topic: str, partition: int = 0) -> list[Path]:
        """The files in which a partition's records lie."""
        return sorted((self.folder / "data" / f"{topic}-{partition}").glob("*.log"))

    # --- inside ------------------------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)

    def _java(self, heap: str, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        command = [
            "java", f"-Xmx{heap}", f"-Xms{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
            "-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp", f"{Path(os.environ['KAFKA_HOME']).resolve() / 'libs'}/*", *arguments,
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, start_new_session=True, **popen)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def _write_settings(self) -> None:
        (self.folder / "log4j2.properties").write_text(
            "appender.out.type=Console\nappender.out.name=OUT\nappender.out.layout.type=PatternLayout\n"
            "appender.out.layout.pattern=[%d] %p %m (%c)%n\n"
            "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=OUT\n"
        )
        values: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"CLIENT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{self._port}",
            "listener.security.protocol.map": (
                f"CLIENT:{'SASL_SSL' if self.secure else 'PLAINTEXT'},CONTROLLER:PLAINTEXT"
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 2,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.cleaner.dedupe.buffer.size": 8_388_608,
            # What takes minutes in earnest is to be seen in a test.
            "log.retention.check.interval.ms": 500,
            "log.initial.task.delay.ms": 500,
            "log.cleaner.backoff.ms": 500,
            "log.segment.delete.delay.ms": 500,
            "file.delete.delay.ms": 500,
            "group.min.session.timeout.ms": 1_000,
        }
        if self.secure:
            jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required"
            jaas += f' username="admin" password="{PASSWORDS["admin"]}" '
            jaas += " ".join(f'user_{name}="{secret}"' for name, secret in PASSWORDS.items()) + ";"
            store = {"location": self.folder / "broker.p12", "password": STORE_PASSWORD, "type": "PKCS12"}
            values |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.client.plain.sasl.jaas.config": jaas,
                **{f"ssl.{kind}.{name}": value for kind in ("keystore", "truststore") for name, value in store.items()},
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:admin;User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "false",
            }
        values |= self._more
        self._settings_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def _format(self) -> None:
        # One that begins with "-" would be taken for an option.
        cluster = "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        process = self._java(
            "64m", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings_file),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        told, _ = process.communicate(timeout=START_S)
        if process.returncode:
            raise RuntimeError("the broker's storage could not be formatted:\n" + told.decode("utf-8", "replace"))

    def _make_certificates(self) -> None:
        store = [
            "-keystore", str(self.folder / "broker.p12"), "-storepass", STORE_PASSWORD, "-storetype", "PKCS12",
            "-alias", "broker",
        ]  # fmt: skip
        named = ["-dname", "CN=localhost", "-ext", "SAN=dns:localhost,ip:127.0.0.1", "-ext", "bc:c"]
        for command in (
            ["keytool", "-genkeypair", *store, "-keyalg", "EC", "-validity", "3650", *named],
            ["keytool", "-exportcert", *store, "-rfc", "-file", str(self.ca)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=START_S)
