"""CloudEvents 1.0 on Kafka: what the envelope says of an event, in our names. Pure.

*Binary mode*: the record's value is the event, the attributes stand in headers (``ce_id``, ``ce_source`` ...).
*Structured mode*: the value is a JSON object with the attributes, and the event under ``data`` or ``data_base64``; the
header ``content-type`` says ``application/cloudevents+json``, or is left out, as by a command line that cannot set it.

Source: CloudEvents 1.0.2, JSON event format and Kafka protocol binding.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any

from stream_ft.ports import Headers

STRUCTURED = "application/cloudevents"
BATCHED = "application/cloudevents-batch"
REQUIRED = ("id", "source", "type")


class EnvelopeError(ValueError):
    """An envelope that cannot be read.

    Args:
        reason: slug for the dead letter.
        detail: one sentence for a person, without a value of the event.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def media_type(headers: Headers) -> str:
    """The ``content-type`` without its parameters, in lower case; empty if there is none."""
    for name, raw in headers:
        if name.lower() == "content-type":
            return raw.decode("latin-1").partition(";")[0].strip().lower()
    return ""


def is_structured(body: dict[str, Any], kind: str) -> bool:
    """Whether a value of media type ``kind`` is a structured CloudEvent."""
    return kind.startswith(STRUCTURED) or (
        kind in ("", "application/json") and "specversion" in body and ("data" in body or "data_base64" in body)
    )


def binary(headers: Headers) -> dict[str, Any]:
    """``id, source, time, type`` as the headers give them; empty if there are none.

    Raises:
        EnvelopeError: a header cannot be read, or is of another version.
    """
    found: dict[str, str] = {}
    for name, raw in headers:
        if not name.lower().startswith("ce_"):
            continue
        try:
            found[name.lower()[3:]] = raw.decode()
        except UnicodeDecodeError:
            raise EnvelopeError("cloudevents", f"Header {name.lower()[:40]} is not UTF-8.") from None
    return _attributes(found) if found else {}


def structured(body: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """``id, source, time, type`` of the envelope, and its data: bytes where they were base64, else as decoded.

    Raises:
        EnvelopeError: an attribute is missing or of the wrong type, or there is not exactly one ``data``.
    """
    if not isinstance(body.get("specversion"), str):
        raise EnvelopeError("cloudevents", "A structured CloudEvent has a specversion.")
    for name in REQUIRED:
        if not isinstance(body.get(name), str) or not body[name]:
            raise EnvelopeError("cloudevents", f"A structured CloudEvent has a {name} that is a string.")
    attributes = _attributes({name: body[name] for name in ("specversion", "id", "source", "type")})
    if body.get("time") is not None:
        if not isinstance(body["time"], str):
            raise EnvelopeError("bad_time", "The time of the CloudEvent is not an RFC 3339 time.")
        attributes["time"] = rfc3339(body["time"])
    encoded, data = body.get("data_base64"), body.get("data")
    if (encoded is None) == (data is None):
        raise EnvelopeError("cloudevents", "A structured CloudEvent has either data or data_base64.")
    if encoded is None:
        return attributes, data
    try:
        return attributes, base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise EnvelopeError("cloudevents", "data_base64 is not base64.") from None


def rfc3339(text: str) -> float:
    """Seconds since the epoch.

    Raises:
        EnvelopeError: it is no such time, or has no time zone.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise EnvelopeError("bad_time", "The time of the CloudEvent has no time zone.")
        return moment.timestamp()
    except EnvelopeError:
        raise
    except (ValueError, OverflowError):
        raise EnvelopeError("bad_time", "The time of the CloudEvent is not an RFC 3339 time.") from None


def _attributes(found: dict[str, str]) -> dict[str, Any]:
    if not found.get("specversion", "1.0").startswith("1."):
        raise EnvelopeError("cloudevents", "Only CloudEvents 1.x are read.")
    result: dict[str, Any] = {name: found[name] for name in ("id", "source") if found.get(name)}
    if "time" in found:
        result["time"] = rfc3339(found["time"])
    if found.get("type"):
        result["type"] = found["type"].rpartition(".")[2]
    return result
