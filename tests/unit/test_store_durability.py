"""All or nothing, and the same again after a restart."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from store_kit import START, Feeder, labels, open_store, sentence, vector

from stream_ft.errors import ConfigError, StoreFullError
from stream_ft.events import LabelCorrection, LabelledEvent
from stream_ft.replay.contradiction import Neighbourhood, Placed
from stream_ft.replay.store import Applied, Item, Store


def fill(feeder: Feeder, start: int, stop: int) -> Applied:
    items = []
    for number in range(start, stop):
        event = LabelledEvent(
            id=str(number), input=sentence(number), correction=LabelCorrection(label="abc"[number % 3])
        )
        answer = {"output": "a", "version": "v", "embedding": vector(1, number % 3, number), "embedding_base": "b"}
        items.append(feeder.item("labels", event, **answer))
    return feeder.apply(*items)


def picture(store: Store) -> tuple[object, ...]:
    sides = (store.training(), store.holdout())
    return (*sides, store.count(), store.offsets(), store.max_seq(), store.labels(), store.outbox(99))


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db", holdout_share=0.3, holdout_after=3))
    fill(feeder, 0, 50)
    feeder.say("lost", label="a")
    feeder.predict("p", "a text", embedding=vector(1))
    feeder.say("p", label="never seen")
    feeder.apply(feeder.item("labels", b"{"))
    feeder.store.save("learner", b"\x00state")
    before = picture(feeder.store)
    feeder.store.close()
    again = open_store(tmp_path / "store.db", holdout_share=0.3, holdout_after=3)
    assert picture(again) == before
    assert again.load("learner") == b"\x00state"
    assert again.load("nothing") is None
    assert again.count().waiting == 2
    again.close()


def test_a_restart_in_between_changes_no_decision(tmp_path: Path) -> None:
    settings = {"capacity": 30, "holdout_share": 0.2, "holdout_after": 3, "contradictions": 2}
    straight = Feeder(open_store(**settings))
    broken = Feeder(open_store(tmp_path / "store.db", **settings))
    for start in range(0, 120, 20):
        fill(straight, start, start + 20)
        fill(broken, start, start + 20)
        broken.store.close()
        broken.store = open_store(tmp_path / "store.db", **settings)
    assert picture(broken.store) == picture(straight.store)
    assert broken.store.count().train <= 30
    broken.store.close()


def test_a_transaction_that_fails_leaves_nothing_behind() -> None:
    feeder = Feeder(open_store())
    fill(feeder, 0, 20)
    before = picture(feeder.store)
    good = feeder.item("labels", LabelledEvent(id="new", input="new", correction=LabelCorrection(label="z")))
    again = Item(record=good.record, event=good.event, output="a", version="v", embedding=vector(1), embedding_base="b")
    following = msgspec.structs.replace(good.record, offset=good.record.offset + 1)
    broken = Item(record=following, event=None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        feeder.apply(again, broken)
    assert picture(feeder.store) == before
    assert len(feeder.apply(again).examples) == 1


def test_a_full_disk_passes_no_offset_and_recovers(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db"))
    fill(feeder, 0, 20)
    before = picture(feeder.store)
    database: sqlite3.Connection = feeder.store._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages + 2}")
    items = [
        feeder.item("labels", LabelledEvent(id=f"n{n}", input=sentence(n) * 200, correction=LabelCorrection(label="a")))
        for n in range(100, 110)
    ]
    assert free < 10
    with pytest.raises(StoreFullError):
        feeder.apply(*items)
    assert picture(feeder.store) == before
    database.execute("PRAGMA max_page_count=1000000")
    assert len(feeder.apply(*items).examples) == 10
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    feeder.store.close()


def test_a_write_error_of_the_system_is_told_in_words(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db"))
    fill(feeder, 0, 5)
    before = picture(feeder.store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = max(p.stat().st_size for p in tmp_path.iterdir())
    event = LabelledEvent(input="x " * 9_000, correction=LabelCorrection(label="a"))
    items = [feeder.item("labels", event) for _ in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        with pytest.raises(StoreFullError, match=r"store\.db cannot be written"):
            feeder.apply(*items)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert picture(feeder.store) == before
    assert len(feeder.apply(*items).examples) == 1
    feeder.store.close()


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_killed_around_the_commit_all_or_nothing(tmp_path: Path, point: str) -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[2])
        from store_kit import Feeder, open_store
        feeder = Feeder(open_store(sys.argv[1]))
        for number in range(9):
            feeder.label(f"text {number}", "a", id=str(number))
        """
    )
    path = tmp_path / "store.db"
    reached = tmp_path / "reached"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent.parent)],
        env={
            "STREAM_FT_FAILPOINT": f"store.{point}:kill:4",
            "STREAM_FT_FAILPOINT_LOG": str(reached),
            "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        },
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert reached.read_text() == f"store.{point}\n"
    store = open_store(path)
    committed = 3 if point == "before_commit" else 4
    assert store.offsets() == {("stream_ft.m.labels", 0): committed}
    assert labels(store.training()) == {f"text {n}": "a" for n in range(committed)}
    feeder = Feeder(store)
    again = feeder.apply(
        *[
            feeder.item("labels", LabelledEvent(id=str(n), input=f"text {n}", correction=LabelCorrection(label="a")))
            for n in range(9)
        ]
    )
    assert again.duplicates == committed
    assert store.count().train == 9
    store.close()


def test_a_torn_tail_of_the_wal_costs_only_what_was_not_committed(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db"))
    fill(feeder, 0, 10)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "store.db").write_bytes((tmp_path / "store.db").read_bytes())
    whole = (tmp_path / "store.db-wal").read_bytes()
    fill(feeder, 10, 20)
    more = (tmp_path / "store.db-wal").read_bytes()
    feeder.store.close()
    assert len(more) > len(whole)
    (copy / "store.db-wal").write_bytes(more[: len(whole) + (len(more) - len(whole)) // 2])
    store = open_store(copy / "store.db")
    assert store.offsets() == {("stream_ft.m.labels", 0): 10}
    assert store.count().train == 10
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_an_older_copy_reads_the_rest_again(tmp_path: Path) -> None:
    feeder = Feeder(open_store(tmp_path / "store.db"))
    fill(feeder, 0, 10)
    feeder.store.close()
    old = (tmp_path / "store.db").read_bytes()
    feeder.store = open_store(tmp_path / "store.db")
    fill(feeder, 10, 20)
    rest = picture(feeder.store)
    feeder.store.close()
    (tmp_path / "store.db").write_bytes(old)
    replay = Feeder(open_store(tmp_path / "store.db"))
    fill(replay, 0, 20)
    assert picture(replay.store)[:2] == rest[:2]
    replay.store.close()


@pytest.mark.parametrize("content", [b"hello, I am a text file and no database at all" * 50, b"\x00" * 4096])
def test_a_damaged_file_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.db").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        open_store(tmp_path / "store.db")
    assert caught.value.remedy


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db")
    other.execute("CREATE TABLE theirs(x)")
    other.commit()
    other.close()
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        open_store(tmp_path / "store.db")
    assert (tmp_path / "store.db").read_bytes() == before


def test_a_folder_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreFullError, match="cannot be written"):
        open_store(tmp_path / "none" / "store.db")


def test_commits_are_durable_against_power_cuts(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store.db")
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_thousand_events_take_less_than_a_second() -> None:
    feeder = Feeder(open_store())
    items = []
    for number in range(1_000):
        event = LabelledEvent(
            id=str(number), input=sentence(number), correction=LabelCorrection(label="abc"[number % 3])
        )
        items.append(
            feeder.item("labels", event, output="a", version="v", embedding=vector(1, number), embedding_base="b")
        )
    before = time.process_time()
    feeder.apply(*items)
    assert time.process_time() - before < 1.0
    assert feeder.store.count().events == 1_000


def test_an_event_among_five_thousand_costs_milliseconds() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    rows = rng.normal(size=(5_020, 384)).astype("<f2")
    neighbourhood = Neighbourhood(contradictions=3, similarity=0.8)

    def add(id: int) -> None:
        placed = Placed(id=id, label=str(id % 77), trust=2, time=START + id, embedding=rows[id].tobytes())
        neighbourhood.add(placed)

    for id in range(5_000):
        add(id)
    neighbourhood.settle()
    costs = []
    for id in range(5_000, 5_020):
        before = time.thread_time()
        add(id)
        neighbourhood.settle()
        costs.append(time.thread_time() - before)
    assert float(np.median(costs)) < 0.01
