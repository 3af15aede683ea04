from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from stream_ft.errors import MessageTooLargeError, StoreFullError
from stream_ft.ports import Outgoing
from stream_ft.serve.appender import Appender
from stream_ft.testing import MemoryLog

WAIT_S = 10.0


def message(value: str, topic: str = "stream_ft.shop.feedback") -> Outgoing:
    return Outgoing(topic=topic, value=value.encode())


def prediction(value: str) -> Outgoing:
    return message(value, "stream_ft.shop.predictions")


class SlowLog(MemoryLog):
    """Counts commits, and waits in each while it is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[bytes]] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.broken = False

    def append(self, messages: Sequence[Outgoing], *, now: float | None = None) -> list[int]:
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if self.broken:
            raise OSError("the disk is on fire")
        offsets = super().append(messages, now=now)
        self.commits.append([m.value for m in messages])
        return offsets


@pytest.fixture
def log() -> SlowLog:
    return SlowLog()


@pytest.fixture
def appender(log: SlowLog) -> Iterator[Appender]:
    made = Appender(log)
    made.start()
    yield made
    log.open.set()
    made.close()


def values(log: MemoryLog, kind: str) -> list[str]:
    return [record.value.decode() for record in log.read(f"stream_ft.shop.{kind}", 0, 0, 1_000)]


def test_an_append_returns_its_offsets_once_it_is_durable(log: SlowLog, appender: Appender) -> None:
    assert asyncio.run(appender.append([message("a"), message("b")])) == [0, 1]
    assert values(log, "feedback") == ["a", "b"]


def test_concurrent_requests_share_a_commit_and_get_their_own_offsets(log: SlowLog, appender: Appender) -> None:
    async def scene() -> list[list[int]]:
        log.open.clear()
        first = asyncio.create_task(appender.append([message("first")]))
        assert await asyncio.to_thread(log.entered.wait, WAIT_S)
        others = [asyncio.create_task(appender.append([message(f"{i}"), message(f"{i}!")])) for i in range(5)]
        await asyncio.sleep(0)
        log.open.set()
        await first
        return await asyncio.gather(*others)

    offsets = asyncio.run(scene())
    assert len(log.commits) == 2
    stored = values(log, "feedback")
    assert [[stored[o] for o in pair] for pair in offsets] == [[f"{i}", f"{i}!"] for i in range(5)]


def test_a_prediction_lies_in_the_log_before_the_feedback_that_names_it(log: SlowLog, appender: Appender) -> None:
    for i in range(20):
        appender.publish(prediction(f"p{i}"))
        asyncio.run(appender.append([message(f"f{i}")]))
    order = [value.decode() for commit in log.commits for value in commit]
    assert all(order.index(f"p{i}") < order.index(f"f{i}") for i in range(20))


def test_close_appends_what_waits_and_refuses_what_comes_later(log: SlowLog, appender: Appender) -> None:
    for i in range(100):
        assert appender.publish(prediction(f"{i}"))
    appender.close()
    assert values(log, "predictions") == [f"{i}" for i in range(100)]
    assert not appender.publish(prediction("late"))
    with pytest.raises(StoreFullError, match="shutting down"):
        asyncio.run(appender.append([message("late")]))


def test_predictions_beyond_the_capacity_are_dropped_not_waited_for(log: SlowLog) -> None:
    appender = Appender(log, capacity=3)  # not started: nothing leaves
    assert [appender.publish(prediction(f"{i}")) for i in range(5)] == [True, True, True, False, False]


def test_a_failed_commit_is_told_to_whoever_waits_and_predictions_are_tried_again(log: SlowLog) -> None:
    failures: list[None] = []
    published: list[int] = []
    appender = Appender(log, on_failed=lambda: failures.append(None), on_published=published.append)
    appender.start()
    log.full = True
    appender.publish(prediction("kept"))
    with pytest.raises(StoreFullError, match="full"):
        asyncio.run(appender.append([message("lost")]))
    assert values(log, "feedback") == []
    log.full = False
    assert asyncio.run(appender.append([message("later")])) == [0]
    appender.close()
    assert values(log, "predictions") == ["kept"]
    assert failures
    assert sum(published) == 1


def test_an_unforeseen_failure_does_not_end_the_thread_nor_leak_its_words(log: SlowLog, appender: Appender) -> None:
    log.broken = True
    with pytest.raises(StoreFullError) as caught:
        asyncio.run(appender.append([message("a")]))
    assert "fire" not in str(caught.value)
    log.broken = False
    assert asyncio.run(appender.append([message("b")])) == [0]


def test_close_does_not_hang_on_a_disk_that_takes_nothing(log: SlowLog, appender: Appender) -> None:
    log.full = True
    appender.publish(prediction("gone"))
    appender.close(WAIT_S)
    assert not appender._thread.is_alive()


def test_a_request_whose_loop_has_ended_is_appended_all_the_same(log: SlowLog, appender: Appender) -> None:
    async def leave() -> None:
        task = asyncio.create_task(appender.append([message("a")]))
        await asyncio.sleep(0)
        task.cancel()

    log.open.clear()
    asyncio.run(leave())
    log.open.set()
    assert asyncio.run(appender.append([message("b")])) == [1]
    assert values(log, "feedback") == ["a", "b"]


def test_the_capacity_counts_what_a_commit_under_way_holds(log: SlowLog) -> None:
    """A broker that is away keeps a commit for long; meanwhile no more may wait than were promised to."""
    appender = Appender(log, capacity=5)
    log.open.clear()
    appender.start()
    assert all(appender.publish(prediction(f"{i}")) for i in range(5))
    assert log.entered.wait(WAIT_S)
    assert not appender.publish(prediction("one too many"))
    log.full = True
    log.open.set()
    log.entered.clear()
    assert log.entered.wait(WAIT_S), "it is tried again"
    log.full = False
    appender.close()
    assert values(log, "predictions") == [f"{i}" for i in range(5)]


@pytest.mark.parametrize("broken", [False, True])
def test_a_slow_log_does_not_gather_what_it_cannot_take(
    log: SlowLog, appender: Appender, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr("stream_ft.serve.appender.MOST_BYTES", 100)
    log.open.clear()

    async def scene() -> None:
        first = asyncio.create_task(appender.append([message("x" * 70)]))
        assert await asyncio.to_thread(log.entered.wait, WAIT_S)
        second = asyncio.create_task(appender.append([message("y" * 70)]))
        third = asyncio.create_task(appender.append([message("v" * 30)]))
        await asyncio.sleep(0)
        with pytest.raises(StoreFullError, match="wait for the log already"):
            await appender.append([message("z")])
        log.broken = broken
        log.open.set()
        told = await asyncio.gather(first, second, third, return_exceptions=True)
        assert all(isinstance(each, StoreFullError) for each in told) == broken
        log.broken = False
        assert len(await appender.append([message("w" * 300)])) == 1, "one that is alone is taken, however large"

    asyncio.run(scene())


class NarrowLog(SlowLog):
    """Takes values of at most five bytes, as a broker takes messages of some size."""

    def append(self, messages: Sequence[Outgoing], *, now: float | None = None) -> list[int]:
        for index, each in enumerate(messages):
            if len(each.value) > 5:
                raise MessageTooLargeError("It is too large.", "Send less.", index=index)
        return super().append(messages, now=now)


def test_a_message_that_the_log_never_takes_holds_up_no_other() -> None:
    log = NarrowLog()
    appender = Appender(log)
    for value in ("p1", "p2 too large", "p3"):
        appender.publish(prediction(value))

    async def scene() -> list[object]:
        tasks = [asyncio.create_task(appender.append([message(value)])) for value in ("f1", "f2 too large", "f3")]
        await asyncio.sleep(0)
        appender.start()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(scene())
    appender.close()
    assert (first, third) == ([0], [1])
    assert isinstance(second, MessageTooLargeError)
    assert values(log, "predictions") == ["p1", "p3"]
    assert values(log, "feedback") == ["f1", "f3"]
