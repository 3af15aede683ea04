"""Section `ingest` of the settings."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from stream_ft.config_section import Section


class IngestSettings(Section):
    """What becomes of an event before it is stored, in `learn` or in `ingest` workers before it."""

    host: str = "127.0.0.1"
    """Address of a worker's probes and metrics."""
    port: int = Field(default=8082, ge=0, le=65535)
    """Port of a worker's `/livez`, `/readyz` and `/metrics`; 0 takes a free one."""
    redact: bool = False
    """Personal data in texts is replaced by its kind before anything is stored or trained on; see
    docs/publish.md#personal-data."""
    redact_kinds: str = "email,iban,card,us_ssn,ip,phone"
    """Kinds that are replaced, with commas between them."""
    phone_region: str = ""
    """Two letters: telephone numbers as they are written there are found too, not only those that begin with `+`."""

    @field_validator("redact_kinds")
    @classmethod
    def _kinds_are_kinds(cls, value: str) -> str:
        kinds = {"email", "iban", "card", "us_ssn", "ip", "phone"}
        if unknown := sorted({kind.strip() for kind in value.split(",") if kind.strip()} - kinds):
            raise ValueError(f"there is no kind {', '.join(unknown)}; there are {', '.join(sorted(kinds))}")
        return value

    @field_validator("phone_region")
    @classmethod
    def _region_is_two_letters(cls, value: str) -> str:
        if not re.fullmatch(r"([A-Z]{2})?", value):
            raise ValueError("must be two capital letters, like US, or empty")
        return value
