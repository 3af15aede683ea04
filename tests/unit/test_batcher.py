from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stream_ft.errors import StreamFTError
from stream_ft.serve.batcher import Batcher, ClosedError, DeadlineError, ForwardError, QueueFullError, wait_s

WAIT_S = 10.0


class Gate:
    """A forward that upper-cases, notes its batches, and waits while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, texts: list[str]) -> list[str]:
        self.entered.set()
        assert self.open.wait(WAIT_S)
        self.batches.append(list(texts))
        if "bad" in texts:
            raise ZeroDivisionError("secret text of a user")
        if "told" in texts:
            raise StreamFTError("The text was not understood.")
        return [text.upper() for text in texts]


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Batcher[str], Gate]]]:
    made: list[tuple[Batcher[str], Gate]] = []

    def build(**settings: Any) -> tuple[Batcher[str], Gate]:
        gate = Gate()
        batcher: Batcher[str] = Batcher(gate, **settings)
        batcher.start()
        made.append((batcher, gate))
        return batcher, gate

    yield build
    for batcher, gate in made:
        gate.open.set()
        batcher.close()
        assert not batcher.alive


async def busy(batcher: Batcher[str], gate: Gate) -> asyncio.Task[list[str]]:
    """Shut the gate with one request inside."""
    gate.open.clear()
    gate.entered.clear()
    task = asyncio.create_task(batcher.submit(["first"]))
    assert await asyncio.to_thread(gate.entered.wait, WAIT_S)
    return task


def test_answers_come_in_order(make: Any) -> None:
    batcher, _ = make()
    assert asyncio.run(batcher.submit(["a", "b", "c"])) == ["A", "B", "C"]


def test_what_waits_is_answered_together_and_nobody_gets_anothers_answer(make: Any) -> None:
    batcher, gate = make(max_batch=32)

    async def scene() -> list[list[str]]:
        first = await busy(batcher, gate)
        others = [asyncio.create_task(batcher.submit([f"t{i}", f"u{i}"])) for i in range(8)]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        return await asyncio.gather(*others)

    assert asyncio.run(scene()) == [[f"T{i}", f"U{i}"] for i in range(8)]
    assert [len(batch) for batch in gate.batches] == [1, 16]


def test_a_batch_stays_within_its_size_and_never_splits_a_request(make: Any) -> None:
    batcher, gate = make(max_batch=4)

    async def scene() -> None:
        first = await busy(batcher, gate)
        others = [asyncio.create_task(batcher.submit([f"{i}"] * 3)) for i in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(scene())
    assert gate.batches[1:] == [["0"] * 3, ["1"] * 3, ["2"] * 3]


def test_a_large_request_is_cut_without_a_flip_in_between() -> None:
    order: list[object] = []

    def forward(texts: list[str]) -> list[str]:
        if not order:
            batcher.between(lambda: order.append("flip"))
        order.append(len(texts))
        return texts

    batcher = Batcher(forward, max_batch=4)
    batcher.start()
    assert asyncio.run(batcher.submit([str(i) for i in range(10)])) == [str(i) for i in range(10)]
    batcher.close()
    assert order == [4, 4, 2, "flip"]


def test_a_flip_comes_before_the_requests_that_wait(make: Any) -> None:
    batcher, gate = make()
    seen: list[int] = []

    async def scene() -> None:
        first = await busy(batcher, gate)
        waiting = asyncio.create_task(batcher.submit(["second"]))
        await asyncio.sleep(0)
        flip = batcher.between(lambda: seen.append(len(gate.batches)))
        gate.open.set()
        await asyncio.gather(first, waiting)
        flip.result(WAIT_S)

    asyncio.run(scene())
    assert seen == [1]


def test_a_job_runs_on_the_forward_thread_and_hands_back_its_error(make: Any) -> None:
    batcher, _ = make()
    assert batcher.between(threading.current_thread).result(WAIT_S).name == "forward"
    with pytest.raises(ZeroDivisionError):
        batcher.between(lambda: 1 // 0).result(WAIT_S)
    assert asyncio.run(batcher.submit(["x"])) == ["X"]


def test_a_full_queue_refuses_at_once(make: Any) -> None:
    batcher, gate = make(queue=2)

    async def scene() -> None:
        first = await busy(batcher, gate)
        waiting = asyncio.create_task(batcher.submit(["a", "b"]))
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        with pytest.raises(QueueFullError, match="2 inputs wait"):
            await batcher.submit(["c"])
        gate.open.set()
        await asyncio.gather(first, waiting)

    asyncio.run(scene())
    assert batcher.waiting == 0


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(make: Any) -> None:
    batcher, _ = make(queue=2, max_batch=2)
    assert len(asyncio.run(batcher.submit(["a"] * 5))) == 5


def test_a_late_request_is_given_up_and_never_computed(make: Any) -> None:
    batcher, gate = make(deadline_s=0.05)

    async def scene() -> None:
        first = await busy(batcher, gate)
        with pytest.raises(DeadlineError, match=r"0\.05 s"):
            await batcher.submit(["late"])
        with pytest.raises(DeadlineError):
            await first
        gate.open.set()

    asyncio.run(scene())
    batcher.between(lambda: None).result(WAIT_S)
    batcher.close()
    assert ["late"] not in gate.batches


def test_one_bad_request_does_not_spoil_its_batch(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    batcher, gate = make()

    async def scene() -> list[Any]:
        first = await busy(batcher, gate)
        tasks = [asyncio.create_task(batcher.submit([text])) for text in ("good", "bad", "told", "fine")]
        await asyncio.sleep(0)
        gate.open.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad, told, fine = asyncio.run(scene())
    assert (good, fine) == (["GOOD"], ["FINE"])
    assert isinstance(bad, ForwardError)
    assert "secret" not in str(bad)
    assert str(told) == "The text was not understood."


def test_close_answers_what_waits_and_refuses_what_comes_later(make: Any) -> None:
    batcher, gate = make()

    async def scene() -> list[str]:
        first = await busy(batcher, gate)
        waiting = asyncio.create_task(batcher.submit(["second"]))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(ClosedError):
            await batcher.submit(["third"])
        await first
        return await waiting

    assert asyncio.run(scene()) == ["SECOND"]
    assert not batcher.alive
    assert batcher.between(lambda: None).cancelled()


def test_an_answer_nobody_waits_for_any_more_harms_nobody(make: Any) -> None:
    batcher, gate = make()

    async def leave() -> None:
        await busy(batcher, gate)  # and the loop ends with the request inside

    asyncio.run(leave())
    gate.open.set()
    assert asyncio.run(batcher.submit(["x"])) == ["X"]


def test_sizes_are_reported() -> None:
    sizes: list[int] = []
    queue: list[int] = []
    batcher: Batcher[str] = Batcher(lambda t: t, max_batch=2, on_batch=sizes.append, on_queue=queue.append)
    batcher.start()
    asyncio.run(batcher.submit(["a", "b", "c"]))
    batcher.close()
    assert sizes == [2, 1]
    assert queue == [3, 0]


def test_a_request_that_would_wait_too_long_is_refused_and_none_that_finds_nothing_before_it(make: Any) -> None:
    seconds = iter([0.0] * 3 + [3.0] * 100)  # admitted, taken and begun at 0: by this clock the forward takes 3 s
    batcher, gate = make(max_wait_s=5.0, monotonic=lambda: next(seconds), deadline_s=60.0)

    async def scene() -> None:
        assert await batcher.submit(["slow"]) == ["SLOW"]
        first = await busy(batcher, gate)
        second = asyncio.create_task(batcher.submit(["second", "third"]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match=r"3 inputs come before: an answer would take about 6\.0 s"):
            await batcher.submit(["late"])
        gate.open.set()
        await asyncio.gather(first, second)

    asyncio.run(scene())


def after(batches: list[tuple[int, float]], *, running: int = 0, waiting: int = 0, joining: int = 1) -> float:
    return wait_s(batches, running=running, waiting=waiting, joining=joining, largest=32)


def test_sizes_that_were_not_seen_cost_what_the_cheapest_inputs_cost() -> None:
    assert after([], running=32, waiting=20) == 0.0
    assert after([*[(1, 0.006)] * 15, (1, 3.0)], waiting=20) == pytest.approx(0.12), "a machine that stood still once"
    assert after([*[(1, 0.1)] * 8, (11, 0.11)], waiting=11) == pytest.approx(0.11), "taken together they cost less"
    assert after([*[(1, 0.006)] * 4, *[(1, 0.05)] * 28], waiting=20) == pytest.approx(0.12), "busy for a while"
    assert after([(1, 0.6)] * 32, running=1, waiting=1) == pytest.approx(0.6), "of a slow model many are shown together"


def test_sizes_that_were_seen_cost_what_nearly_all_of_them_took() -> None:
    small = [(1, 0.006)] * 16
    large = [(32, 0.32)] * 8 + [(32, 0.64)] * 4
    assert after([*small, *large], waiting=32) == pytest.approx(2 * 0.64), "its own forward and the one before"
    assert after([*small, *large], running=32, waiting=31) == pytest.approx(2 * 0.64), "it has room in the next"
    assert after([*small, *large], running=32, waiting=64, joining=2) == pytest.approx(4 * 0.64)
    assert after([*small, *large], running=32, joining=500) == pytest.approx(2 * 0.64), "its own length is no wait"
    assert after([*small, *large], running=256, joining=30) == pytest.approx(9 * 0.64), "before it come eight"
    assert after([*small, *[(32, 0.32)] * 15, (32, 9.0)], waiting=31) == pytest.approx(0.32), "one was held up"
    assert after([*small, *[(16, 0.16)] * 4], waiting=29) == pytest.approx(30 / 16 * 0.16), "the larger takes longer"
    assert after([*small, *[(16, 0.16)] * 3], waiting=29) == pytest.approx(29 * 0.006), "too few to tell"


@pytest.mark.parametrize(("bound_s", "refused"), [(7.6, False), (7.4, True)])
def test_what_would_take_nearly_the_bound_is_refused_too(make: Any, bound_s: float, refused: bool) -> None:
    seconds = iter([0.0] * 3 + [3.0] * 100)  # by this clock the forward takes 3 s
    batcher, gate = make(max_wait_s=bound_s, monotonic=lambda: next(seconds), deadline_s=60.0)

    async def scene() -> bool:
        assert await batcher.submit(["slow"]) == ["SLOW"]
        asked = [await busy(batcher, gate)]
        asked += [asyncio.create_task(batcher.submit([text])) for text in ("second", "third")]
        await asyncio.sleep(0)
        late = asyncio.create_task(batcher.submit(["late"]))  # about 6 s: the bound is for what is not foreseen, too
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*asked)
        return isinstance((await asyncio.gather(late, return_exceptions=True))[0], QueueFullError)

    assert asyncio.run(scene()) is refused


def test_under_a_lasting_overload_an_answer_takes_no_longer_than_the_bound() -> None:
    clock = [0.0]
    entered, release = threading.Semaphore(0), threading.Semaphore(0)
    begun: dict[str, float] = {}
    took: list[float] = []

    def forward(texts: list[str]) -> list[str]:
        entered.release()
        assert release.acquire(timeout=WAIT_S)
        clock[0] += 0.01 * len(texts)
        took.extend(clock[0] - begun[text] for text in texts)
        return texts

    batcher: Batcher[str] = Batcher(forward, max_wait_s=1.0, deadline_s=60.0, monotonic=lambda: clock[0])
    batcher.start()

    async def scene() -> list[Any]:
        asked = []
        for turn in range(30):  # 64 come in the time in which 32 are answered
            for i in range(64):
                begun[f"{turn}/{i}"] = clock[0]
                asked.append(asyncio.create_task(batcher.submit([f"{turn}/{i}"])))
            await asyncio.sleep(0)
            if turn:
                release.release()
            assert await asyncio.to_thread(entered.acquire, timeout=WAIT_S)  # the next batch is in its forward
        release.release(1_000)
        return await asyncio.gather(*asked, return_exceptions=True)

    try:
        answers = asyncio.run(scene())
    finally:
        release.release(1_000)
        batcher.close()
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
    assert len(took) + len(refused) == len(answers) == 30 * 64
    assert len(refused) > 600
    assert max(took[448:]) <= 1.0 + 1e-6, "those that came once batches like these had been seen"
    assert max(took[600:]) > 0.6, "no more is refused than must be"


def test_pressed_tells_whether_a_request_had_to_wait_for_others() -> None:
    now = [100.0]
    release, entered = threading.Event(), threading.Event()

    def forward(texts: list[str]) -> list[str]:
        entered.set()
        release.wait(10)
        return texts

    batcher: Batcher[str] = Batcher(forward, monotonic=lambda: now[0])
    batcher.start()

    async def two() -> None:
        first = asyncio.create_task(batcher.submit(["a"]))
        await asyncio.to_thread(entered.wait, 10)
        assert not batcher.pressed(1.0), "nobody waited for the first"
        second = asyncio.create_task(batcher.submit(["b"]))
        await asyncio.sleep(0)
        assert batcher.pressed(1.0)
        release.set()
        await asyncio.gather(first, second)

    try:
        asyncio.run(two())
        now[0] += 2.0
        assert not batcher.pressed(1.0)
    finally:
        release.set()
        batcher.close()


def test_a_loop_is_woken_once_for_all_answers_of_a_batch(
    make: Callable[..., tuple[Batcher[str], Gate]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, gate = make()
    wakes: list[str] = []

    async def ask(texts: list[str]) -> list[list[str]]:
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counted(action: Callable[[], object], *rest: Any) -> asyncio.Handle:
            wakes.append(texts[0])
            return call(action, *rest)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        return await asyncio.gather(*(batcher.submit([text]) for text in texts))

    gate.open.clear()
    results: dict[str, list[list[str]]] = {}
    first = threading.Thread(target=lambda: results.update(first=asyncio.run(ask(["first"]))))
    first.start()
    assert gate.entered.wait(WAIT_S)
    others = [
        threading.Thread(target=lambda texts=texts: results.update({texts[0]: asyncio.run(ask(texts))}))
        for texts in (["a", "b", "c"], ["x", "y"])
    ]
    for thread in others:
        thread.start()
    until = threading.Event()
    while batcher.waiting < 5:
        until.wait(0.001)
    gate.open.set()
    for thread in (first, *others):
        thread.join(WAIT_S)
    assert len(gate.batches) == 2, "the five were one batch"
    assert results == {"first": [["FIRST"]], "a": [["A"], ["B"], ["C"]], "x": [["X"], ["Y"]]}
    assert sorted(wakes) == ["a", "first", "x"]
