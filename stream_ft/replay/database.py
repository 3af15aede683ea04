"""The store's file: its tables, how it is opened, and what its errors mean to a person."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_ft.errors import ConfigError, StoreFullError

APPLICATION_ID = 0x73747246
"""Marks the file as ours, so that a foreign database is not written into."""
FORMAT = 1
CACHE_KB = 65_536
CHECKPOINT_PAGES = 8_000
"""Pages of 4 KiB that the WAL may hold before they are written back."""

TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets(topic TEXT, part INTEGER, next INTEGER NOT NULL, PRIMARY KEY(topic, part)) WITHOUT ROWID;
CREATE TABLE predictions(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, appended_at REAL NOT NULL, time REAL NOT NULL,
    version TEXT NOT NULL, base TEXT NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL, embedding BLOB,
    scored INTEGER NOT NULL DEFAULT 0);
CREATE INDEX predictions_age ON predictions(appended_at);
CREATE TABLE claims(
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL, input TEXT NOT NULL,
    correction BLOB, source TEXT NOT NULL, trust INTEGER NOT NULL, time REAL NOT NULL, tie TEXT NOT NULL,
    appended_at REAL NOT NULL, predicted TEXT, version TEXT NOT NULL, covers INTEGER NOT NULL,
    trained INTEGER NOT NULL DEFAULT 0, quarantined INTEGER NOT NULL DEFAULT 0,
    dropped TEXT NOT NULL DEFAULT '', dropped_by INTEGER);
CREATE INDEX claims_best ON claims(digest, trust, time, tie) WHERE correction IS NOT NULL AND quarantined = 0;
CREATE INDEX claims_trained ON claims(digest) WHERE trained = 1;
CREATE INDEX claims_age ON claims(appended_at);
CREATE INDEX claims_dropped_by ON claims(dropped_by) WHERE dropped_by IS NOT NULL;
CREATE TABLE examples(
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, claim INTEGER NOT NULL UNIQUE, digest BLOB NOT NULL UNIQUE,
    input TEXT NOT NULL, correction BLOB NOT NULL, source TEXT NOT NULL, trust INTEGER NOT NULL, weight REAL NOT NULL,
    time REAL NOT NULL, tie TEXT NOT NULL, accepted_at REAL NOT NULL, holdout INTEGER NOT NULL,
    embedding BLOB, base TEXT NOT NULL, predicted TEXT, version TEXT NOT NULL, covers INTEGER NOT NULL);
CREATE INDEX examples_seq ON examples(holdout, seq);
CREATE TABLE parked(
    id INTEGER PRIMARY KEY AUTOINCREMENT, why TEXT NOT NULL, key TEXT NOT NULL, source TEXT NOT NULL,
    appended_at REAL NOT NULL, item BLOB NOT NULL);
CREATE INDEX parked_key ON parked(why, key);
CREATE INDEX parked_age ON parked(why, appended_at);
CREATE TABLE labels(label TEXT PRIMARY KEY, why TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE quarantines(source TEXT, since REAL, until REAL);
CREATE TABLE outbox(
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key BLOB, value BLOB NOT NULL, headers BLOB NOT NULL);
CREATE TABLE days(day INTEGER PRIMARY KEY);
"""
ADDED = """
CREATE TABLE IF NOT EXISTS lessons(seq INTEGER PRIMARY KEY, example BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints(
    id INTEGER PRIMARY KEY AUTOINCREMENT, base TEXT NOT NULL, epoch INTEGER NOT NULL, upto INTEGER NOT NULL,
    head TEXT NOT NULL, data BLOB NOT NULL);
"""
"""Of the fast tier. A store that was made before there was one gets them when it is opened."""

_FULL = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
)
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def connect(path: Path | str) -> sqlite3.Connection:
    """Open or create the store's file; statements outside a ``BEGIN`` commit by themselves.

    Raises:
        ConfigError: the file is damaged, or is not a store of this format.
        StoreFullError: it cannot be opened or created.
    """
    with explained(path):
        db = sqlite3.connect(str(path), isolation_level=None, timeout=5.0)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path | str) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise ConfigError(f"{path} is a database of another program.", "Give another state folder with --state-dir.")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if tables and version != FORMAT:
        raise ConfigError(
            f"{path} has store format {version}; this program reads {FORMAT}.",
            "Use the version that wrote it, or another state folder.",
        )
    db.execute("PRAGMA journal_mode=WAL")
    # NORMAL would lose the last commits when power goes: an acknowledged offset must not come back.
    db.execute("PRAGMA synchronous=FULL")
    # Identities and digests are random, so a transaction touches pages all over the file: they must fit, or they are
    # written twice, and the same page is worth writing back only after many transactions.
    db.execute(f"PRAGMA cache_size=-{CACHE_KB}")
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    if not tables:
        db.executescript(
            f"BEGIN; {TABLES} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; COMMIT;"
        )
    (added,) = db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('lessons', 'checkpoints')").fetchone()
    if added < 2:
        db.executescript(f"BEGIN; {ADDED} COMMIT;")


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn what SQLite raises into what a person can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _FULL:
            raise StoreFullError(
                f"The store {path} cannot be written: {error}.", "Make room on its disk and check its permissions."
            ) from error
        if code in _CORRUPT:
            raise ConfigError(
                f"The store {path} is damaged or no store: {error}.",
                "Restore it from a copy, or move it away and let the topics be read again.",
            ) from error
        raise
