"""What a text and a label must be. One rule for all: the server refuses what ingest would make a dead letter of."""

from __future__ import annotations

import json
import unicodedata

from stream_ft.events import MAX_TEXT, Reject

MAX_LABEL = 200
"""Longest label, in characters; as :data:`stream_ft.events.LabelName` says."""


def text_reject(text: str) -> Reject | None:
    """Why this cannot be the text of an event; ``None`` if it can."""
    return _reject(text, MAX_TEXT, "input")


def label_reject(label: str) -> Reject | None:
    """Why this cannot be a label; ``None`` if it can."""
    if "\x00" in label:
        return Reject(stage="validate", reason="invalid_field", detail="The label has a NUL character.")
    return _reject(label, MAX_LABEL, "The label")


def blank(text: str) -> bool:
    """True if nothing of it can be seen: white space, controls, zero-width characters."""
    if text and text.isascii() and text.strip().isprintable():
        return not text.strip()
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co", "Cs") for c in text)


def half_pair(data: bytes) -> bool:
    r"""True if JSON that cannot be read is whole but for half of a surrogate pair (``\ud800``), which is no character.

    Decoders call that cut off or malformed, which sends people to look in the wrong place.
    """
    try:
        json.dumps(json.loads(data), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _reject(text: str, most: int, what: str) -> Reject | None:
    if len(text) > most:
        detail = f"{what} has {len(text)} characters; at most {most} are accepted."
        return Reject(stage="validate", reason="too_long", detail=detail)
    if blank(text):
        return Reject(stage="validate", reason="empty_text", detail=f"{what} has no visible character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        detail = f"{what} has half of a surrogate pair, which is no character."
        return Reject(stage="decode", reason="invalid_json", detail=detail)
    return None
