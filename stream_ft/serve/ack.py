"""What a replica says of itself."""

from __future__ import annotations

from msgspec import Struct


class Ack(Struct, frozen=True, kw_only=True, tag_field="type", tag="ack"):
    """What a replica says of itself on ``.acks``, keyed by its name."""

    replica: str
    time: float
    offset: int
    """Next offset of the control log it will fold."""
    wanted: str
    """Version that the log asks for."""
    version: str
    """Version that answers; ``""`` for none."""
    ok: bool
    step: str = ""
    """Check that the wanted version failed."""
    reason: str = ""
    challenger: str = ""
    """Version on trial beside it; ``""`` for none."""
    challenger_step: str = ""
    """Check that the challenger failed."""
    challenger_reason: str = ""
