"""The event log of a process, from its settings; and what is to be done where it is a broker's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from stream_ft.config import Settings
from stream_ft.connectors.registry import open_log
from stream_ft.errors import ConfigError, LogAwayError
from stream_ft.ports import Brokered, EventLog
from stream_ft.topics import KINDS, topic

log = logging.getLogger("stream_ft.broker")

RETRY_S = 1.0


def open_event_log(settings: Settings, *, writes: Sequence[str], group: str = "", patience_s: float = 0.0) -> EventLog:
    """The log behind ``settings.broker``. Nothing is connected yet.

    Args:
        writes: the roles (``serve``, ``learn``) whose topics this process appends to, besides the control log.
        group: consumer group under which a broker shows how far this process has read.
        patience_s: how long a call waits for a broker that does not answer, from when it was lost; 0 leaves it to the
            settings.

    Raises:
        ConfigError: the URL, or a setting of its section, cannot be used.
    """
    options = {"kafka": settings.kafka.model_dump() | {"group": group, "patience_s": patience_s}}
    return open_log(settings.broker, folder=settings.state_path(), writes=writes, options=options)


def check_topics(event_log: EventLog, model: str, *, known: Mapping[str, str]) -> None:
    """Make the topics of ``model`` that are missing, and check the others. Does nothing where there is no broker.

    Args:
        known: ``log_id`` by topic, of those that this process has used before: one that is gone is not made again, and
            is left to whoever reads it.

    Raises:
        ConfigError: somebody made a topic on which events or commands would be lost.
        LogAwayError: the broker does not answer.
    """
    if not isinstance(event_log, Brokered):
        return
    event_log.expect(known)
    for flaw in event_log.prepare([topic(model, kind) for kind in KINDS]):
        if flaw.serious and flaw.topic not in known:
            raise ConfigError(flaw.text, flaw.remedy)
        log.warning("%s %s", flaw.text, flaw.remedy)


def until_reached(attempt: Callable[[], None], *, stop: threading.Event) -> bool:
    """Repeat ``attempt`` until the broker answers; false if ``stop`` ended it.

    Args:
        attempt: may be called several times; its :class:`LogAwayError` means another try.
    """
    told = ""
    while not stop.is_set():
        try:
            attempt()
        except LogAwayError as error:
            if str(error) != told:
                told = str(error)
                log.warning("waiting for the broker: %s", told)
            stop.wait(RETRY_S)
        else:
            return True
    return False
