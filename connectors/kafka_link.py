"""The way to a Kafka cluster: what a client needs to know, and clients that give up in time.

kafka-python's constructors connect; one that gave up leaves its I/O thread behind, and now and then one of its calls
never comes back, whatever its timeouts say. So every call here has a deadline of its own, at which the client is thrown
away; while the cluster is known to be away, calls are refused at once.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    AuthorizationError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    RetriableError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient
from msgspec import Struct

from stream_ft.errors import ConfigError, LogAwayError

from .kafka_topics import LARGER

log = logging.getLogger("stream_ft.kafka")

T = TypeVar("T")
ATTEMPT_S = 1.0
"""One attempt to connect."""
KNOCK_S = 1.0
PAUSE_S = 0.1
"""Between two attempts."""
FETCH_WAIT_MS = 250
"""The broker answers a fetch without records after this long. A reader that asks for another place waits for it."""
FETCH_BYTES = 16_000_000
"""Records that a fetch brings at most; one that is larger still comes alone."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``kafka`` of the settings, as the connector takes it."""

    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    username: str
    password: str
    ca_file: str
    cert_file: str
    key_file: str
    partitions: int
    replication: int
    retention_hours: float
    dead_letter_hours: float
    max_message_bytes: int
    deadline_s: float
    patience_s: float = 0.0
    """How long a call waits for a cluster that does not answer, from when it was lost; 0: ``deadline_s``."""
    group: str = ""
    """Consumer group under which positions are shown to lag displays; empty shows none."""


def read_options(values: Mapping[str, object]) -> Options:
    """Checked options.

    Raises:
        ConfigError: a name or a value is wrong, or the security needs what is not given.
    """
    try:
        options = msgspec.convert(dict(values), type=Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"Settings of kafka: {error}.", "See stream-ft config show.") from error
    if options.security.startswith("sasl") and not (options.username and options.password):
        raise ConfigError(
            f"kafka.security = {options.security} needs a user.", "Set kafka.username and kafka.password."
        )
    return options


def opened(kind: Callable[..., T], *, within_s: float, **settings: Any) -> T:
    """A client of kafka-python; if its constructor fails or is late, what it had started is ended.

    Raises:
        KafkaTimeoutError: it is late.
    """
    clients: list[KafkaNetClient] = []
    made: list[T] = []
    failed: list[BaseException] = []

    def client(**inner: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**inner))
        return clients[-1]

    def make() -> None:
        try:
            made.append(kind(kafka_client=client, **settings))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="kafka-open", daemon=True)
    thread.start()
    thread.join(within_s)
    if made:
        return made[0]
    for each in clients:
        with contextlib.suppress(Exception):  # it was never whole; nothing of it is of use
            each.close()
    raise failed[0] if failed else KafkaTimeoutError("the connection was not made in time")


def _in_short(error: KafkaError) -> str:
    """A refusal without the whole request and response that kafka-python quotes: what was asked, and of which topic."""
    quoted = str(error)
    asked = re.findall(r"(\w+)Request\(", quoted)[:1]
    named = dict.fromkeys(re.findall(r"stream_ft\.[\w.-]*\w", quoted))
    return ": ".join([type(error).__name__, ", ".join([*asked, *named])]) if asked or named else quoted


class Link:
    """Connects to one cluster, and knows whether it can be reached. Safe to use from threads.

    Nothing is connected before the first call.

    Args:
        address: ``host:port``, several separated by commas.
        options: how to connect.
        monotonic: time.
    """

    def __init__(self, address: str, options: Options, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self._options = options
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._admin: KafkaAdminClient | None = None
        self._up = False
        self._since = monotonic()
        self._patience_s = options.patience_s or options.deadline_s
        self._closed = threading.Event()

    @property
    def up(self) -> bool:
        """True while the cluster answers."""
        return self._up

    @property
    def given_up(self) -> bool:
        """True once the cluster has been away for longer than a caller waits."""
        return not self._up and self._monotonic() >= self._since + self._patience_s

    def away(self, why: object = "") -> LogAwayError:
        """What to raise when it does not answer."""
        told = f": {why}" if str(why) else ""
        secured = self._options.security != "plaintext"
        check = "the broker, kafka.username and kafka.password" if secured else "the broker, and kafka.security"
        return LogAwayError(
            f"Kafka at {self.address} does not answer{told}.",
            f"It goes on by itself once it does; if it never did, check {check}.",
        )

    def call(self, ask: Callable[[KafkaAdminClient], T], *, probe: bool = False) -> T:
        """What the cluster answers.

        Args:
            ask: may be called several times.
            probe: one attempt, even while the cluster is known to be away.

        Raises:
            LogAwayError: no answer in time, or the principal may not ask.
            UnknownTopicOrPartitionError: as the cluster says.
        """
        if self.given_up and not probe:
            raise self.away()
        # From when it was lost: whoever calls often does not wait often.
        start = self._monotonic() if self._up else self._since
        deadline = start + self._patience_s
        while True:
            try:
                result = self._ask(ask)
            except AuthorizationError as error:
                raise self.refused(error) from error
            except UnknownTopicOrPartitionError:
                self._note(True)
                raise
            except (RetriableError, IncompatibleBrokerVersion, OSError) as error:
                if probe or self._monotonic() >= deadline or self._closed.wait(PAUSE_S):
                    self._note(False)
                    raise self.away(error) from error
            else:
                self._note(True)
                return result

    def refused(self, error: KafkaError) -> LogAwayError:
        """What to raise when the principal lacks a right."""
        return LogAwayError(
            f"Kafka at {self.address} refuses {self._options.username or 'this client'}: {_in_short(error)}.",
            "Give the principal its rights: deploy/kafka/acls.sh has those of each role.",
        )

    def producer(self) -> KafkaProducer:
        """A producer; the caller closes it.

        Raises:
            LogAwayError: the cluster does not answer.
        """
        timeout = int(1_000 * self._options.deadline_s)
        return self._open(
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            batch_size=262_144,
            # Each topic has its own limit.
            max_request_size=(max(LARGER.values()) + 1) * self._options.max_message_bytes,
            max_block_ms=timeout,
            delivery_timeout_ms=timeout,
            request_timeout_ms=max(1_000, timeout // 2),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def consumer(self) -> KafkaConsumer:
        """A consumer without a group; the caller closes it.

        Raises:
            LogAwayError: the cluster does not answer.
        """
        return self._open(
            KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a position that is gone is an error, never a jump
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES // 4,
            request_timeout_ms=max(2_000, int(1_000 * self._options.deadline_s)),
            allow_auto_create_topics=False,
            metrics_enabled=False,
            metadata_max_age_ms=10_000,
        )

    def close(self) -> None:
        """End the connection. Idempotent."""
        self._closed.set()
        with self._lock:
            admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _ask(self, ask: Callable[[KafkaAdminClient], T]) -> T:
        admin = self._connected()
        late = threading.Timer(self._options.deadline_s + 1.0, self._drop, [admin])
        late.daemon = True
        late.start()
        try:
            return ask(admin)
        finally:
            late.cancel()

    def _drop(self, admin: KafkaAdminClient) -> None:
        """End a client that does not come back; whoever waits for it is told so."""
        with self._lock:
            if self._admin is admin:
                self._admin = None
        log.warning("a call of Kafka's client did not come back; it connects anew")
        admin.close()

    def _note(self, up: bool) -> None:
        if up != self._up:
            self._up, self._since = up, self._monotonic()
            if up:
                log.info("Kafka at %s answers", self.address)
            elif not self._closed.is_set():
                log.warning("Kafka at %s does not answer", self.address)

    def _connected(self) -> KafkaAdminClient:
        with self._lock:
            if self._closed.is_set():
                raise self.away("closed")
            if self._admin is None:
                self._knock()
                self._admin = opened(
                    KafkaAdminClient,
                    within_s=ATTEMPT_S + 2.0,
                    **self._config(),
                    request_timeout_ms=max(1_000, int(1_000 * self._options.deadline_s)),
                )
            return self._admin

    def _open(self, kind: Callable[..., T], **settings: Any) -> T:
        if self.given_up:
            raise self.away()
        try:
            self._knock()
            return opened(kind, within_s=ATTEMPT_S + 2.0, **self._config(), **settings)
        except (RetriableError, IncompatibleBrokerVersion, OSError) as error:
            raise self.away(error) from error

    def _knock(self) -> None:
        """Whether anybody listens: kafka-python would try for as long as it may, and leave the sockets open.

        Raises:
            KafkaConnectionError: nobody does.
        """
        told: Exception | None = None
        for address in self.address.split(","):
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
            except OSError as error:
                told = error
            else:
                return
        raise KafkaConnectionError(str(told)) from told

    def _config(self) -> dict[str, Any]:
        options = self._options
        config: dict[str, Any] = {
            "bootstrap_servers": self.address.split(","),
            "client_id": "stream_ft",
            "security_protocol": options.security.upper(),
            "bootstrap_timeout_ms": int(1_000 * ATTEMPT_S),
            "reconnect_backoff_max_ms": 1_000,
        }
        if "ssl" in options.security:
            config |= {
                "ssl_cafile": options.ca_file or None,
                "ssl_certfile": options.cert_file or None,
                "ssl_keyfile": options.key_file or None,
            }
        if "sasl" in options.security:
            config |= {
                "sasl_mechanism": options.sasl_mechanism,
                "sasl_plain_username": options.username,
                "sasl_plain_password": options.password,
            }
        return config
