"""Requests of two slots behind one forward thread, and what it does when nobody waits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from stream_ft.serve.batcher import MOST_IDLE, Batcher
from stream_ft.serve.slots import Slot

WAIT_S = 10.0


class Stage:
    """Two forwards that note who ran with what, and wait while the gate is shut."""

    def __init__(self, **settings: Any) -> None:
        self.ran: list[tuple[str, list[str]]] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.batcher: Batcher[str] = Batcher(
            lambda texts: self._forward("champion", texts),
            challenger=lambda texts: self._forward("challenger", texts),
            **settings,
        )
        self.batcher.start()

    def _forward(self, slot: str, texts: list[str]) -> list[str]:
        self.entered.set()
        assert self.open.wait(WAIT_S)
        self.ran.append((slot, list(texts)))
        if slot == "challenger" and "breaks it" in texts:
            raise ZeroDivisionError
        return [f"{slot} {text}" for text in texts]

    async def queued(self, *requests: tuple[Slot, list[str]]) -> list[list[str]]:
        """The answers to requests that all waited behind another one."""
        first = asyncio.create_task(self.batcher.submit(["first"]))
        assert await asyncio.to_thread(self.entered.wait, WAIT_S)
        tasks = [asyncio.create_task(self.batcher.submit(texts, slot)) for slot, texts in requests]
        await asyncio.sleep(0)
        self.open.set()
        await first
        answers = await asyncio.gather(*tasks)
        self.batcher.close()
        return answers


def test_a_forward_has_one_slot_and_the_longest_wait_decides_which() -> None:
    stage = Stage()
    wanted: list[tuple[Slot, list[str]]] = [
        ("challenger", ["a"]),
        ("champion", ["b"]),
        ("challenger", ["c"]),
        ("champion", ["d"]),
    ]
    answers = asyncio.run(stage.queued(*wanted))
    assert answers == [[f"{slot} {texts[0]}"] for slot, texts in wanted]
    assert stage.ran[1:] == [("challenger", ["a", "c"]), ("champion", ["b", "d"])]


def test_a_slot_with_much_traffic_does_not_starve_the_other_nor_change_the_order_within_one() -> None:
    stage = Stage(max_batch=2)
    rows: list[tuple[Slot, list[str]]] = [("champion", [str(i)]) for i in range(6)]
    asyncio.run(stage.queued(*rows[:1], ("challenger", ["x"]), *rows[1:]))
    assert stage.ran[1:] == [
        ("champion", ["0", "1"]),
        ("challenger", ["x"]),
        ("champion", ["2", "3"]),
        ("champion", ["4", "5"]),
    ]


def test_without_a_canary_batches_are_as_large_as_ever() -> None:
    stage = Stage(max_batch=4)
    asyncio.run(stage.queued(*[("champion", [str(i)]) for i in range(8)]))
    assert [len(texts) for _, texts in stage.ran] == [1, 4, 4]


def test_what_the_challenger_fails_at_the_champion_answers_as_a_whole() -> None:
    stage = Stage(max_batch=2)
    answers = asyncio.run(stage.queued(("challenger", ["a", "b", "breaks it"]), ("challenger", ["c"])))
    assert answers == [["champion a", "champion b", "champion breaks it"], ["challenger c"]]


def test_idle_work_waits_for_everybody_and_is_let_go_when_there_is_too_much() -> None:
    stage = Stage()
    order: list[str] = []

    async def scene() -> list[bool]:
        first = asyncio.create_task(stage.batcher.submit(["first"]))
        assert await asyncio.to_thread(stage.entered.wait, WAIT_S)
        taken = [stage.batcher.idle(lambda: order.append(f"idle after {len(stage.ran)}")) for _ in range(MOST_IDLE)]
        taken.append(stage.batcher.idle(lambda: order.append("one too many")))
        second = asyncio.create_task(stage.batcher.submit(["second"]))
        await asyncio.sleep(0)
        stage.open.set()
        await asyncio.gather(first, second)
        return taken

    taken = asyncio.run(scene())
    while stage.batcher.waiting or len(order) < MOST_IDLE:
        stage.batcher.between(lambda: None).result(WAIT_S)
    stage.batcher.close()
    assert taken == [True] * MOST_IDLE + [False]
    assert order == ["idle after 2"] * MOST_IDLE


def test_idle_work_is_not_taken_while_requests_wait_and_one_that_fails_ends_nothing() -> None:
    stage = Stage()

    async def scene() -> bool:
        first = asyncio.create_task(stage.batcher.submit(["first"]))
        assert await asyncio.to_thread(stage.entered.wait, WAIT_S)
        second = asyncio.create_task(stage.batcher.submit(["second"]))
        await asyncio.sleep(0)
        taken = stage.batcher.idle(lambda: None)
        stage.open.set()
        await asyncio.gather(first, second)
        return taken

    assert not asyncio.run(scene())
    stage.batcher.idle(lambda: 1 // 0)
    assert asyncio.run(stage.batcher.submit(["x"])) == ["champion x"]
    stage.batcher.close()
    assert not stage.batcher.idle(lambda: None)
