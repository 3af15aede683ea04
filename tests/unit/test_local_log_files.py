"""Which file holds what, who may write it, and what is said of files that cannot be used."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stream_ft.connectors.local import FILES, LocalLog, SqliteLog, open_log
from stream_ft.errors import ConfigError, LogTruncatedError, StoreFullError
from stream_ft.ports import Outgoing
from stream_ft.topics import KINDS, topic

FEEDBACK = topic("m", "feedback")
CONTROL = topic("m", "control")


def one(name: str, value: bytes = b"{}") -> list[Outgoing]:
    return [Outgoing(topic=name, value=value)]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Writes beyond ``limit`` bytes of any file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_kind_has_its_file() -> None:
    assert set(FILES) == set(KINDS)


@pytest.mark.parametrize(("kind", "file"), sorted(FILES.items()))
def test_a_topic_goes_to_its_file(tmp_path: Path, kind: str, file: str) -> None:
    with closing(LocalLog(tmp_path, writes=["serve", "learn"])) as log:
        log.append(one(topic("m", kind)))
    assert [path.name for path in tmp_path.glob("*.db")] == [f"{file}.db"]


def test_reading_creates_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with closing(LocalLog(folder, writes=["serve"])) as log:
        for kind in KINDS:
            assert log.read(topic("m", kind), 0, 0, 5) == []
            assert log.bounds(topic("m", kind), 0) == (0, 0)
        log.changed()
    assert not folder.exists()


def test_a_reader_sees_a_file_that_its_writer_makes_later(tmp_path: Path) -> None:
    with (
        closing(LocalLog(tmp_path, writes=["learn"])) as learn,
        closing(LocalLog(tmp_path, writes=["serve"])) as serve,
    ):
        assert learn.log_id(FEEDBACK) == ""
        learn.changed()
        assert not learn.changed()
        serve.append(one(FEEDBACK, b"1"))
        assert learn.changed()
        assert not learn.changed()
        assert [record.value for record in learn.read(FEEDBACK, 0, 0, 5)] == [b"1"]
        assert learn.log_id(FEEDBACK) == serve.log_id(FEEDBACK) != ""
        serve.append(one(FEEDBACK, b"2"))
        assert learn.changed()
        assert learn.bounds(FEEDBACK, 0) == (0, 2)


def test_a_reader_opens_what_its_writer_closed(tmp_path: Path) -> None:
    with closing(LocalLog(tmp_path, writes=["serve"])) as serve:
        serve.append(one(FEEDBACK, b"1"))
    with closing(LocalLog(tmp_path, writes=[])) as reader:
        assert reader.bounds(FEEDBACK, 0) == (0, 1)


def test_a_file_of_another_process_is_never_written(tmp_path: Path) -> None:
    with closing(LocalLog(tmp_path, writes=["serve"])) as log:
        with pytest.raises(ConfigError, match="may not write"):
            log.append(one(FEEDBACK) + one(topic("m", "heads")))
        assert log.bounds(FEEDBACK, 0) == (0, 0), "the part that it may write must not have been written either"
        with pytest.raises(ConfigError, match="may not write"):
            log.trim(topic("m", "heads"), 0, 1)


def test_every_process_may_write_the_control_log(tmp_path: Path) -> None:
    with (
        closing(LocalLog(tmp_path, writes=["serve"])) as serve,
        closing(LocalLog(tmp_path, writes=["learn"])) as learn,
        closing(LocalLog(tmp_path, writes=[])) as operator,
    ):
        assert [log.append(one(CONTROL))[0] for log in (serve, operator, learn, serve)] == [0, 1, 2, 3]
        assert serve.bounds(CONTROL, 0) == operator.bounds(CONTROL, 0) == (0, 4)
        assert serve.log_id(CONTROL) == learn.log_id(CONTROL)
        assert operator.changed()
        assert not operator.changed()
        learn.append(one(CONTROL))
        assert operator.changed()


def test_journals_and_durability(tmp_path: Path) -> None:
    """WAL where one process writes, a rollback journal where several do; every commit reaches the disk."""
    with closing(LocalLog(tmp_path, writes=["serve"])) as log:
        log.append(one(FEEDBACK) + one(CONTROL))
        for name, journal in (("serve", "wal"), ("control", "delete")):
            with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
                assert connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
            inner = log._logs[name]._connection
            assert inner is not None
            assert inner.execute("PRAGMA synchronous").fetchone() == (2,)


def test_an_unknown_topic_or_file_is_a_sentence(tmp_path: Path) -> None:
    with closing(LocalLog(tmp_path, writes=[])) as log, pytest.raises(ConfigError, match="not a topic"):
        log.read("orders", 0, 0, 1)
    with pytest.raises(ConfigError, match="store"):
        LocalLog(tmp_path, writes=["store"])


def test_open_log_reads_the_url(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "with space"
    for url, folder in (
        ("sqlite://", state),
        (f"sqlite://{other}", other),
        (f"sqlite://{tmp_path}/a%20b", tmp_path / "a b"),
    ):
        with closing(open_log(url, folder=state, writes=["serve"])) as log:
            log.append(one(FEEDBACK))
        assert (folder / "serve.db").exists()
    for url in ("kafka://host", "sqlite:", "sqlite://host/path", "/tmp/log.db", ""):
        with pytest.raises(ConfigError, match="not the URL"):
            open_log(url, folder=state, writes=[])


@pytest.mark.parametrize("content", [b"this is not a database, but it is long enough to look like one" * 40, b"short"])
@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path, content: bytes, readonly: bool) -> None:
    path = tmp_path / "serve.db"
    path.write_bytes(content)
    with closing(SqliteLog(path, wal=True, readonly=readonly)) as log:
        with pytest.raises(ConfigError, match=r"serve\.db") as caught:
            log.read(FEEDBACK, 0, 0, 1)
        assert caught.value.remedy
    assert path.read_bytes() == content


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "serve.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with (
        closing(SqliteLog(path, wal=True, readonly=False)) as log,
        pytest.raises(ConfigError, match="not an event log"),
    ):
        log.append(one(FEEDBACK))
    assert path.read_bytes() == before


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "serve.db"
    with closing(SqliteLog(path, wal=True, readonly=False)) as log:
        log.append(one(FEEDBACK))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with closing(SqliteLog(path, wal=True, readonly=True)) as log, pytest.raises(ConfigError, match="layout 99"):
        log.bounds(FEEDBACK, 0)


def test_a_damaged_page_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "serve.db"
    with closing(SqliteLog(path, wal=True, readonly=False)) as log:
        log.append(one(FEEDBACK, b"x" * 2_000) * 100)
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xa5" * (path.stat().st_size - 4096 * 3))
    with (
        closing(SqliteLog(path, wal=True, readonly=True)) as log,
        pytest.raises(ConfigError, match="damaged"),
    ):
        log.read(FEEDBACK, 0, 0, 1_000)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with closing(LocalLog(tmp_path / "file" / "state", writes=["serve"])) as log, pytest.raises(ConfigError):
        log.append(one(FEEDBACK))
    (tmp_path / "serve.db").mkdir()
    with closing(LocalLog(tmp_path, writes=["serve"])) as log, pytest.raises(ConfigError, match="cannot be opened"):
        log.append(one(FEEDBACK))


@pytest.mark.parametrize("name", [FEEDBACK, CONTROL])
def test_a_full_disk_loses_nothing_and_passes(tmp_path: Path, name: str) -> None:
    """An append that does not fit raises and leaves no part of itself; once there is room the offsets go on."""
    with closing(LocalLog(tmp_path, writes=["serve"])) as log:
        kept = log.append(one(name, b"x" * 10_000))
        with file_size_limit(300_000):
            with pytest.raises(StoreFullError) as caught:  # noqa: PT012
                for _ in range(100):
                    kept += log.append(one(name, b"x" * 10_000) * 3)
            assert "space" in caught.value.remedy
            assert log.bounds(name, 0) == (0, len(kept))
        assert kept == list(range(len(kept)))
        assert len(kept) < 100
        assert log.append(one(name, b"after")) == [len(kept)]
        assert len(log.read(name, 0, 0, 1_000)) == len(kept) + 1


def test_a_new_topic_that_did_not_fit_can_be_made_later(tmp_path: Path) -> None:
    labels = topic("m", "labels")
    with closing(LocalLog(tmp_path, writes=["serve"])) as log:
        log.append(one(FEEDBACK))
        with file_size_limit(60_000), pytest.raises(StoreFullError):
            log.append(one(labels, b"x") * 2 + one(labels, b"x" * 200_000))
        assert log.bounds(labels, 0) == (0, 0)
        assert log.append(one(labels)) == [0]


def test_a_replaced_log_is_noticed(tmp_path: Path) -> None:
    writer = SqliteLog(tmp_path / "control.db", wal=False, readonly=False)
    reader = SqliteLog(tmp_path / "control.db", wal=False, readonly=True)
    with closing(writer), closing(reader):
        writer.append(one(CONTROL) * 5)
        before = reader.log_id(CONTROL)
        assert reader.bounds(CONTROL, 0) == (0, 5)
        reader.changed()
        (tmp_path / "control.db").unlink()
        assert reader.changed()
        with pytest.raises(LogTruncatedError):
            reader.read(CONTROL, 0, 5, 1)
        assert writer.append(one(CONTROL)) == [0], "an append must not go into a file that nobody can see"
        assert reader.changed()
        assert reader.log_id(CONTROL) not in ("", before)
        with pytest.raises(LogTruncatedError):
            reader.read(CONTROL, 0, 5, 1)


def test_a_hole_is_never_skipped(tmp_path: Path) -> None:
    path = tmp_path / "serve.db"
    with closing(SqliteLog(path, wal=True, readonly=False)) as log:
        log.append(one(FEEDBACK) * 6)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DELETE FROM log_1 WHERE id IN (3, 6)")
        assert [record.offset for record in log.read(FEEDBACK, 0, 0, 10)] == [0, 1]
        for offset in (2, 5):
            with pytest.raises(LogTruncatedError):
                log.read(FEEDBACK, 0, offset, 10)


def test_append_times_come_from_the_clock_that_is_given(tmp_path: Path) -> None:
    with closing(LocalLog(tmp_path, writes=["serve"], now=lambda: 1_234.5)) as log:
        log.append(one(FEEDBACK))
        assert log.read(FEEDBACK, 0, 0, 1)[0].appended_at == 1_234.5


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_file_that_is_still_being_created_reads_as_empty(tmp_path: Path, journal: str) -> None:
    """What a writer that was killed between opening and its first commit leaves, too."""
    path = tmp_path / "serve.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    path.touch()
    with (
        closing(SqliteLog(path, wal=True, readonly=True)) as reader,
        closing(SqliteLog(path, wal=True, readonly=False)) as writer,
    ):
        assert reader.read(FEEDBACK, 0, 0, 5) == []
        assert reader.log_id(FEEDBACK) == ""
        assert writer.append(one(FEEDBACK)) == [0]
        assert reader.bounds(FEEDBACK, 0) == (0, 1)
