"""An event log in one SQLite file.

Each topic is a table with an AUTOINCREMENT row id; the offset is the row id minus one, so that a topic emptied by
retention never gives an offset twice. A file in WAL mode has one writing process; its readers open it read-only, which
also keeps them from checkpointing it. Method: https://www.sqlite.org/wal.html, https://www.sqlite.org/autoinc.html.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from stream_ft.errors import ConfigError, LogTruncatedError, StoreFullError, StreamFTError
from stream_ft.ports import Headers, Outgoing, Record

APPLICATION_ID = 0x53465431
"""``PRAGMA application_id`` of our files: "SFT1"."""
LAYOUT = 1
"""``PRAGMA user_version``: grows with an incompatible layout."""
BUSY_S = 10.0
"""How long a connection waits for another process that is writing."""

_headers = msgspec.msgpack.Decoder(Headers)


class SqliteLog:
    """An :class:`stream_ft.ports.EventLog` in one SQLite file, one partition per topic. Safe to use from threads.

    Nothing is opened before it is needed. A file that is not there reads as empty; the first append creates it.

    Args:
        path: the file.
        wal: write-ahead log (one writing process, readers never wait) or rollback journal (several writing processes).
        readonly: never write, not even to create the file.
        now: gives the append times, seconds since the epoch.
    """

    def __init__(self, path: Path, *, wal: bool, readonly: bool, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wal = wal
        self._readonly = readonly
        self._now = now
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._tables: dict[str, str] = {}
        self._log_id = ""
        self._data_version = -1
        self._changed = True
        self._closed = False

    def append(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append all messages in one transaction; see the port.

        Raises:
            StoreFullError: nothing was appended.
            ConfigError: the file is read-only to this process, or is not one of ours.
        """
        self.check_writable()
        if not messages:
            return []
        appended_at = self._now()
        with self._lock, self._errors():
            connection = self._create()
            fresh: dict[str, str] = {}
            offsets = []
            with _transaction(connection):
                for message in messages:
                    table = fresh.get(message.topic) or self._table(connection, message.topic)
                    if table is None:
                        table = fresh[message.topic] = _create_topic(connection, message.topic)
                    cursor = connection.execute(
                        f"INSERT INTO {table} (key, value, headers, appended_at) VALUES (?, ?, ?, ?)",
                        (
                            message.key,
                            message.value,
                            msgspec.msgpack.encode(message.headers) if message.headers else None,
                            appended_at,
                        ),
                    )
                    offsets.append((cursor.lastrowid or 0) - 1)
            self._tables |= fresh
            self._changed = True
            return offsets

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """See the port."""
        for _ in range(2):  # an append between the two queries is worth a second look
            rows = self._rows(topic, offset, limit) if partition == 0 and limit > 0 else []
            whole = [record for expected, record in enumerate(rows, offset) if record.offset == expected]
            if whole:
                return whole  # up to a hole, if there is one: the next read says so
            first, after = self.bounds(topic, partition)
            if not first <= offset <= after or rows:
                break
            if offset == after or limit <= 0:
                return []
        raise LogTruncatedError(
            f"Offset {offset} of {topic} is not in {self._path}, which holds {first} to {after}.",
            "The log was cut or replaced; find out why before its readers go on.",
        )

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See the port."""
        if partition != 0:
            return 0, 0
        with self._lock, self._errors():
            connection = self._open()
            table = None if connection is None else self._table(connection, topic)
            if connection is None or table is None:
                return 0, 0
            low, high = connection.execute(
                f"SELECT (SELECT min(id) FROM {table}), (SELECT seq FROM sqlite_sequence WHERE name = '{table}')"
            ).fetchone()
            after = high or 0
            return (after if low is None else low - 1), after

    def partitions(self, topic: str) -> list[int]:
        """Always ``[0]``."""
        return [0]

    def log_id(self, topic: str) -> str:
        """See the port. Creates a file that this process may write; ``""`` for another that is not there yet."""
        with self._lock, self._errors():
            connection = self._open() if self._readonly else self._create()
            return "" if connection is None else self._log_id

    def changed(self) -> bool:
        """See the port. One caller polls: a second one would miss what the first was told."""
        with self._lock:
            try:
                connection = self._open()
                version = -1 if connection is None else connection.execute("PRAGMA data_version").fetchone()[0]
            except (sqlite3.Error, StreamFTError):
                return True  # the next read says what is wrong
            changed = self._changed or version != self._data_version
            self._changed = False
            self._data_version = version
            return changed

    def trim(self, topic: str, partition: int, before: int) -> None:
        """See the port."""
        self.check_writable()
        with self._lock, self._errors():
            connection = self._open()
            table = None if connection is None else self._table(connection, topic)
            if connection is not None and table is not None and partition == 0:
                with _transaction(connection):
                    connection.execute(f"DELETE FROM {table} WHERE id <= ?", (before,))

    def close(self) -> None:
        """See the port."""
        with self._lock:
            self._closed = True
            self._drop_connection()

    def _rows(self, topic: str, offset: int, limit: int) -> list[Record]:
        with self._lock, self._errors():
            connection = self._open()
            table = None if connection is None else self._table(connection, topic)
            if connection is None or table is None:
                return []
            rows = connection.execute(
                f"SELECT id, key, value, headers, appended_at FROM {table} WHERE id > ? ORDER BY id LIMIT ?",
                (offset, limit),
            ).fetchall()
        return [
            Record(
                topic=topic,
                partition=0,
                offset=row_id - 1,
                key=key,
                value=value,
                headers=_headers.decode(headers) if headers is not None else (),
                appended_at=appended_at,
            )
            for row_id, key, value, headers, appended_at in rows
        ]

    def _table(self, connection: sqlite3.Connection, topic: str) -> str | None:
        if topic not in self._tables:
            row = connection.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()
            if row is None:
                return None
            self._tables[topic] = f"log_{row[0]}"
        return self._tables[topic]

    def check_writable(self) -> None:
        """Raise :class:`ConfigError` if this process may not write the file."""
        if self._readonly:
            raise ConfigError(f"This process may not write {self._path}.", "Its topics are written by another process.")

    def _open(self) -> sqlite3.Connection | None:
        """The connection to the file that is there now; ``None`` if there is none, or it is still being created."""
        if self._closed:
            raise ValueError("the log is closed")
        inode = _inode(self._path)
        if self._connection is not None:
            if inode == self._inode:
                return self._connection
            # Removed or replaced under us: what we hold is a file that nobody else can see.
            self._drop_connection()
            self._changed = True
        if inode is None:
            return None
        connection = self._connect("ro" if self._readonly else "rw")
        return connection if self._adopt(connection) else None

    def _create(self) -> sqlite3.Connection:
        """The connection to the file, which is created if need be."""
        connection = self._open()
        if connection is not None:
            return connection
        _make_folder(self._path.parent)
        connection = self._connect("rwc")
        try:
            with _transaction(connection):
                if not _is_ours(connection, self._path):  # another process may have been first
                    connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                    connection.execute("CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)")
                    connection.execute("INSERT INTO meta VALUES ('log_id', ?)", (uuid.uuid4().hex,))
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {LAYOUT}")
        except BaseException:
            connection.close()
            raise
        self._adopt(connection)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self._path.absolute()))}?mode={mode}",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,  # every use is under self._lock
            )
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"{self._path} cannot be opened: {error}.", "Check the permissions of the file and its folder."
            ) from error
        try:
            connection.execute("PRAGMA synchronous = FULL")
            _is_ours(connection, self._path)  # before the journal mode of somebody else's file is changed
            if self._wal and mode != "ro":
                (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                if journal != "wal":
                    raise ConfigError(f"{self._path} cannot use a write-ahead log.", "Put it on a local disk.")
                connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def _adopt(self, connection: sqlite3.Connection) -> bool:
        """Take a connection into use, unless the file behind it is still empty."""
        try:
            ours = _is_ours(connection, self._path)
            if ours:
                (self._log_id,) = connection.execute("SELECT value FROM meta WHERE name = 'log_id'").fetchone()
        except BaseException:
            connection.close()
            raise
        if not ours:
            connection.close()
            return False
        self._connection = connection
        self._inode = _inode(self._path)
        return True

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._inode = None
        self._tables.clear()
        self._data_version = -1

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise ConfigError(
                    f"{self._path} is damaged or is not an event log: {error}.",
                    "Move it away (and restore a copy, if there is one), or choose another state_dir.",
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise StoreFullError(
                    f"{self._path} cannot be used now: {error}.", "Free some space on its disk, or check the disk."
                ) from error
            raise


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _create_topic(connection: sqlite3.Connection, topic: str) -> str:
    cursor = connection.execute("INSERT INTO topics (name) VALUES (?)", (topic,))
    table = f"log_{cursor.lastrowid}"
    connection.execute(
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB, value BLOB NOT NULL, headers BLOB,"
        " appended_at REAL NOT NULL)"
    )
    return table


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """True for a log of ours, False for a file with nothing in it.

    Raises:
        ConfigError: the file is something else, or was written by a newer version.
    """
    # In this order: another process may create everything, in one transaction, between two of these queries.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise ConfigError(f"{path} is a database, but not an event log.", "Choose another state_dir, or move it away.")
    if tables and layout != LAYOUT:
        raise ConfigError(
            f"{path} has layout {layout}; this version reads layout {LAYOUT}.", "Use the version that wrote it."
        )
    return bool(tables)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise StoreFullError(f"{folder} cannot be made: {error.strerror}.", "Free some space.") from error
        raise ConfigError(f"{folder} cannot be made: {error.strerror}.", "Choose another state_dir.") from error
