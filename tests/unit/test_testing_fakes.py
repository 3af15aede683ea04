"""The fakes: what tests of other parts rely on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from stream_ft.errors import ArtifactError, LogTruncatedError, StoreFullError
from stream_ft.ports import Outgoing
from stream_ft.testing import FakeEngine, ManualClock, MemoryAdapterStore, MemoryLog

TOPIC = "stream_ft.m.feedback"


def test_the_clock_moves_only_when_told() -> None:
    clock = ManualClock(100.0)
    assert (clock.now(), clock.monotonic()) == (100.0, 100.0)
    assert clock.advance(2.5) == 102.5
    clock.set(50.0)
    assert (clock.now(), clock.monotonic()) == (50.0, 102.5)
    with pytest.raises(ValueError, match="forwards"):
        clock.advance(-1)


def test_a_key_always_goes_to_the_same_partition() -> None:
    log = MemoryLog(partitions={TOPIC: 4})
    for i in range(200):
        log.append([Outgoing(topic=TOPIC, key=b"k%d" % (i % 20), value=b"%d" % i)])
    assert log.partitions(TOPIC) == [0, 1, 2, 3]
    home: dict[bytes | None, set[int]] = {}
    for partition in log.partitions(TOPIC):
        records = log.read(TOPIC, partition, 0, 1_000)
        assert [record.offset for record in records] == list(range(len(records)))
        assert [int(record.value) for record in records] == sorted(int(record.value) for record in records)
        for record in records:
            home.setdefault(record.key, set()).add(partition)
    assert len(home) == 20
    assert all(len(partitions) == 1 for partitions in home.values())
    assert len(set.union(*home.values())) > 1


def test_messages_without_a_key_spread_and_partitions_are_trimmed_alone() -> None:
    log = MemoryLog(partitions={TOPIC: 2})
    assert log.append([Outgoing(topic=TOPIC, value=b"x")] * 6) == [0, 0, 1, 1, 2, 2]
    log.trim(TOPIC, 0, 2)
    assert (log.bounds(TOPIC, 0), log.bounds(TOPIC, 1)) == ((2, 3), (0, 3))
    with pytest.raises(LogTruncatedError):
        log.read(TOPIC, 0, 0, 1)


def test_append_times_come_from_the_clock_or_the_caller() -> None:
    clock = ManualClock(10.0)
    log = MemoryLog(clock=clock)
    log.append([Outgoing(topic=TOPIC, value=b"a")])
    clock.advance(5)
    log.append([Outgoing(topic=TOPIC, value=b"b")])
    log.append([Outgoing(topic=TOPIC, value=b"c")], now=99.0)
    assert [record.appended_at for record in log.read(TOPIC, 0, 0, 9)] == [10.0, 15.0, 99.0]


def test_a_full_memory_log_takes_nothing() -> None:
    log = MemoryLog()
    log.full = True
    with pytest.raises(StoreFullError):
        log.append([Outgoing(topic=TOPIC, value=b"a")])
    log.full = False
    assert log.append([Outgoing(topic=TOPIC, value=b"a")]) == [0]


def test_embeddings_do_not_depend_on_the_batch_or_the_process() -> None:
    engine = FakeEngine(dim=16)
    texts = ["Where is my order?", "我想退货", "", "a"]
    together = engine.encode(texts)
    assert together.dtype == np.float16
    assert together.shape == (4, 16)
    assert np.array_equal(together, np.concatenate([engine.encode([text]) for text in texts]))
    assert engine.encode([]).shape == (0, 16)
    script = "from stream_ft.testing import FakeEngine; print(FakeEngine(16).encode(['a b']).tobytes().hex())"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert bytes.fromhex(out.strip()) == engine.encode(["a b"]).tobytes()


def test_similar_texts_are_closer() -> None:
    engine = FakeEngine(dim=256)
    base, close, far = engine.encode(["where is my parcel", "where is my Parcel now", "你们几点开门"]).astype(
        np.float32
    )
    assert base @ close > 0.7
    assert base @ far < 0.4


def test_the_files_of_a_base_change_the_embedding() -> None:
    engine = FakeEngine()
    engine.prepare("a", {"w": b"1"})
    engine.prepare("b", {"w": b"2"})
    engine.prepare("twin of a", {"w": b"1"})
    seen = {}
    for name in ("a", "b", "twin of a", "a"):
        engine.activate(name)
        seen.setdefault(name, engine.encode(["text"]).tobytes())
        assert seen[name] == engine.encode(["text"]).tobytes()
    assert seen["a"] == seen["twin of a"] != seen["b"]
    assert engine.active == "a"


def test_the_engine_keeps_account() -> None:
    engine = FakeEngine(refuse={"bad": "finite"})
    engine.prepare("good", {})
    with pytest.raises(ArtifactError) as caught:
        engine.prepare("bad", {})
    assert caught.value.step == "finite"
    assert engine.bases == ["good"]
    engine.activate("good")
    engine.encode(["a", "b"])
    engine.drop("good")
    engine.drop("never seen")
    with pytest.raises(KeyError):
        engine.activate("good")
    assert engine.encoded == 2
    assert engine.calls == [
        ("prepare", "good"),
        ("prepare", "bad"),
        ("activate", "good"),
        ("drop", "good"),
        ("drop", "never seen"),
        ("activate", "good"),
    ]


def test_the_adapter_store_checks_what_it_gives() -> None:
    store = MemoryAdapterStore()
    name = store.put({"a": b"1", "b": b"2"})
    assert store.put({"b": b"2", "a": b"1"}) == name
    assert store.list() == [name]
    assert store.get(name) == {"a": b"1", "b": b"2"}
    store.get(name).clear()
    assert store.get(name) == {"a": b"1", "b": b"2"}
    store.damage(name, "a", b"0")
    with pytest.raises(ArtifactError) as caught:
        store.get(name)
    assert caught.value.step == "hash"
    store.delete(name)
    store.delete(name)
    with pytest.raises(ArtifactError) as caught:
        store.get(name)
    assert caught.value.step == "missing"


def test_the_fakes_import_no_torch() -> None:
    script = (
        "import sys, stream_ft.testing, stream_ft.connectors.local, stream_ft.lock; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
