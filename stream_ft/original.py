"""What a forwarded record carries of the one it was made of: place, append time and a digest, in one header.

Ingest workers deliver at least once, and give the same event other bytes (personal data replaced, shorthands written
out). The identity of an event must survive both: ``(source, id)`` with the digest of the *original* bytes, or the place
where the original lay.
"""

from __future__ import annotations

import hashlib
import re

from stream_ft.ports import Headers, Original, Record

HEADER = "stream_ft.original"
_FORM = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})/(\d{1,16})/([0-9a-f]{32})")


def digest_of(value: bytes) -> bytes:
    """16 bytes that stand for an event's bytes."""
    return hashlib.blake2b(value, digest_size=16).digest()


def of(record: Record) -> Original:
    """The place and digest of a record that lies where its publisher put it."""
    return Original(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        appended_at=record.appended_at,
        digest=digest_of(record.value),
    )


def header(original: Original) -> tuple[str, bytes]:
    """``topic/partition/offset/append time in microseconds/digest``."""
    micros = max(0, round(original.appended_at * 1e6))
    text = f"{original.topic}/{original.partition}/{original.offset}/{micros}/{original.digest.hex()}"
    return HEADER, text.encode()


def read(headers: Headers) -> Original | None:
    """The original that headers name; ``None`` if they name none.

    Raises:
        ValueError: what they say is none.
    """
    found = [value for name, value in headers if name == HEADER]
    if not found:
        return None
    form = _FORM.fullmatch(found[0].decode("ascii")) if len(found) == 1 else None
    if form is None:
        raise ValueError(f"header {HEADER} is not topic/partition/offset/time/digest, once")
    topic, partition, offset, micros, digest = form.groups()
    return Original(
        topic=topic,
        partition=int(partition),
        offset=int(offset),
        appended_at=int(micros) / 1e6,
        digest=bytes.fromhex(digest),
    )
