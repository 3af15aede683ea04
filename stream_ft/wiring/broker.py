"""The event log of a process, from its settings."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ft.config import Settings
from stream_ft.connectors.registry import open_log
from stream_ft.ports import EventLog


def open_event_log(settings: Settings, *, writes: Sequence[str], group: str = "") -> EventLog:
    """The log behind ``settings.broker``. Nothing is connected yet.

    Args:
        writes: the roles (``serve``, ``learn``) whose topics this process appends to, besides the control log.
        group: consumer group under which a broker shows how far this process has read.

    Raises:
        ConfigError: the URL, or a setting of its section, cannot be used.
    """
    options = {"kafka": settings.kafka.model_dump() | {"group": group}}
    return open_log(settings.broker, folder=settings.state_path(), writes=writes, options=options)
