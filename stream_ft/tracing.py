"""Traces: from an answer, by what was said of it, to the version that learned it. A port; without an adapter, nothing.

A span is told once it is over, with its times, and never with a text of a user. What travels between processes is the
``traceparent`` of W3C Trace Context, in the header of that name: over HTTP and on the log's records.
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from stream_ft.ports import Headers

HEADER = "traceparent"
_FORM = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Attributes = Mapping[str, str | int | float | bool]


class Traces(Protocol):
    """Where spans go."""

    def span(
        self,
        name: str,
        *,
        start: float,
        end: float,
        attributes: Attributes,
        parent: str = "",
        links: Sequence[str] = (),
    ) -> str:
        """Tell a span that is over; its ``traceparent``, empty if nobody keeps spans.

        Args:
            name: what was done, from a small fixed set.
            start, end: seconds since the epoch.
            attributes: ids, counts and versions.
            parent: ``traceparent`` of what brought it about; without it, a trace begins.
            links: of others that it belongs to; those whose spans are not kept are left out.
        """
        ...

    def close(self) -> None:
        """Send what waits. Idempotent."""
        ...


class NoTraces:
    """Keeps none."""

    def span(
        self,
        name: str,
        *,
        start: float,
        end: float,
        attributes: Attributes,
        parent: str = "",
        links: Sequence[str] = (),
    ) -> str:
        """Nothing."""
        return ""

    def close(self) -> None:
        """Nothing."""


def checked(value: str | bytes | None) -> str:
    """A ``traceparent`` as it came; empty if it is none: it is anybody's to send."""
    if value is None:
        return ""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip()
    return text if _FORM.fullmatch(text) and not text.startswith("ff") else ""


def sampled(traceparent: str) -> bool:
    """Whether the spans of this trace are kept: the last bit of the flags. Of an empty one, none are."""
    return bool(traceparent) and bool(int(traceparent[-2:], 16) & 1)


def headers(traceparent: str) -> Headers:
    """What a record of the log carries."""
    return ((HEADER, traceparent.encode()),) if traceparent else ()


def of(found: Headers) -> str:
    """The ``traceparent`` that a record carries; empty without one."""
    return next((checked(value) for name, value in found if name == HEADER), "")
