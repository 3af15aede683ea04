"""The settings of a Kafka cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_ft.config_section import Section


class KafkaSettings(Section):
    """The way to a Kafka cluster, where ``broker`` names one."""

    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """How to connect."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """With ``sasl_*``."""
    username: str = ""
    """The principal of this process; give each role its own."""
    password: str = ""
    """Its password; better in the environment than in a file."""
    ca_file: str = ""
    """PEM file of the authority that signed the brokers' certificates; empty: the system's."""
    cert_file: str = ""
    """PEM file of this process's own certificate, where the brokers want one."""
    key_file: str = ""
    """PEM file of the key to that certificate."""
    partitions: int = Field(default=1, ge=1, le=1_000)
    """Of topics of events, when they are created."""
    replication: int = Field(default=0, ge=0, le=100)
    """Copies of a topic that is created; 0 takes the cluster's default."""
    retention_hours: float = 168.0
    """How long events stay in Kafka, once created so; 0: for ever. The control log always stays."""
    dead_letter_hours: float = 720.0
    """How long dead letters stay; 0: for ever."""
    max_message_bytes: int = Field(default=1_048_576, ge=10_000, le=100_000_000)
    """Largest message, its key and headers included; a dead letter may be twice that."""
    deadline_s: float = Field(default=10.0, ge=1, le=300)
    """A message that is not confirmed this long after it was sent has failed."""
