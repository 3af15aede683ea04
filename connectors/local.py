"""The event log of the embedded default: SQLite files in the state folder, no broker.

One WAL file per writing process, and one with a rollback journal for the control log, which every process may write,
rarely: two processes that write one WAL file meet at the tail, and in a bug of SQLite before 3.51.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from stream_ft.errors import ConfigError
from stream_ft.ports import Outgoing, Record
from stream_ft.topics import kind_of

from .sqlite_log import SqliteLog

__all__ = ["FILES", "LocalLog", "SqliteLog", "open_log"]

FILES = {
    "predictions": "serve",
    "acks": "serve",
    "feedback": "serve",
    "labels": "serve",
    "heads": "learn",
    "dlq": "learn",
    "events": "learn",
    "control": "control",
}
"""Which file holds the topics of a kind: one writing process per file, but for the rarely written control log."""
SHARED = "control"
"""The file that every process may write; with a rollback journal, not WAL."""


class LocalLog:
    """An :class:`stream_ft.ports.EventLog` in the files of a state folder, by kind of topic (:data:`FILES`).

    Args:
        folder: the state folder; created when something is first written.
        writes: which of ``serve`` and ``learn`` this process writes; ``control.db`` may be written by all.
        now: gives the append times, seconds since the epoch.

    Raises:
        ConfigError: ``writes`` names another file.
    """

    def __init__(self, folder: Path, *, writes: Collection[str], now: Callable[[], float] = time.time) -> None:
        names = dict.fromkeys(FILES.values())
        unknown = sorted(set(writes) - set(names))
        if unknown:
            raise ConfigError(f"There is no log file named {', '.join(unknown)}.", f"There are {', '.join(names)}.")
        self._logs = {
            name: SqliteLog(
                folder / f"{name}.db",
                wal=name != SHARED,
                readonly=name != SHARED and name not in writes,
                now=now,
            )
            for name in names
        }

    def append(self, messages: Sequence[Outgoing]) -> list[int]:
        """See the port. One transaction per file, in the order in which the files first occur.

        Raises:
            StoreFullError: nothing was appended to this file and those after it.
            ConfigError: a topic is not one of ours, or another process writes it; nothing was appended.
        """
        groups: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            groups.setdefault(_file_of(message.topic), []).append(index)
        for name in groups:
            self._logs[name].check_writable()
        offsets = [0] * len(messages)
        for name, indices in groups.items():
            for index, offset in zip(indices, self._logs[name].append([messages[i] for i in indices]), strict=True):
                offsets[index] = offset
        return offsets

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """See the port."""
        return self._log(topic).read(topic, partition, offset, limit)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See the port."""
        return self._log(topic).bounds(topic, partition)

    def partitions(self, topic: str) -> list[int]:
        """Always ``[0]``."""
        return self._log(topic).partitions(topic)

    def log_id(self, topic: str) -> str:
        """See the port; ``""`` while a file that another process writes is not there."""
        return self._log(topic).log_id(topic)

    def changed(self) -> bool:
        """See the port. One caller polls: a second one would miss what the first was told."""
        answers = [log.changed() for log in self._logs.values()]  # every file must be asked
        return any(answers)

    def trim(self, topic: str, partition: int, before: int) -> None:
        """See the port."""
        self._log(topic).trim(topic, partition, before)

    def close(self) -> None:
        """See the port."""
        for log in self._logs.values():
            log.close()

    def _log(self, topic: str) -> SqliteLog:
        return self._logs[_file_of(topic)]


def open_log(url: str, *, folder: Path, writes: Sequence[str], options: Mapping[str, object] | None = None) -> LocalLog:
    """The log behind a ``sqlite:`` URL.

    Args:
        url: ``sqlite://`` for ``folder``, ``sqlite:///path`` for another folder.
        folder: the state folder.
        writes: which of ``serve`` and ``learn`` this process writes.
        options: there are none.

    Raises:
        ConfigError: the URL is another one.
    """
    scheme, separator, path = url.partition("://")
    if scheme != "sqlite" or not separator or not (path == "" or path.startswith("/")):
        raise ConfigError(
            f"{url!r} is not the URL of a local log.", "Use sqlite:// or, with three slashes, sqlite:///folder."
        )
    return LocalLog(Path(unquote(path)) if path else folder, writes=writes)


def _file_of(topic: str) -> str:
    try:
        return FILES[kind_of(topic)]
    except KeyError:
        raise ConfigError(f"{topic!r} is not a topic of stream_ft.", "See stream_ft.topics for their names.") from None
