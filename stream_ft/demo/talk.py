"""After the demo, on a terminal: type a message, correct the answer, and see the model change."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable

from rich.console import Console

from stream_ft.demo.client import Client
from stream_ft.demo.plan import Plan
from stream_ft.demo.traffic import Traffic

TURN_S = 90.0
"""A new version is waited for this long."""
POLL_S = 0.5
RATE = 12.0
LOT = 60

ReadLine = Callable[[], Awaitable[str]]


async def read_line() -> str:
    """A line of standard input without its end; empty at its end. Ctrl-C interrupts it, unlike a thread's ``input``."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(sys.stdin, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip()


async def talk(console: Console, url: str, client: Client, plan: Plan, read: ReadLine = read_line) -> None:
    """Ask, correct, and watch, until an empty line. Customers go on writing, as they would.

    Args:
        url: of the server, as it is told.
    """
    console.print(
        f"\nThe system stays up at {url}. Type a message, then correct the answer. An empty line ends it.",
        highlight=False,
    )
    labels = sorted({row.label for row in plan.test})
    shown = ", ".join(labels[:20])
    console.print(
        f"Labels it knows: {shown}{' ...' if len(labels) > 20 else ''}. A new one is welcome.", highlight=False
    )
    background = asyncio.create_task(_background(client, plan))
    try:
        while True:
            console.print("message> ", end="", highlight=False)
            text = await read()
            if not text:
                return
            await _turn(console, client, text, read)
    finally:
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)


async def _turn(console: Console, client: Client, text: str, read: ReadLine) -> None:
    answer = await client.predict(text)
    if answer is None:
        console.print(f"No answer: {client.last_error}", highlight=False)
        return
    console.print(f"{answer.version} says {answer.label or 'nothing'} ({answer.score:.0%}).", highlight=False)
    console.print("right answer, or enter if it is right> ", end="", highlight=False)
    label = await read()
    if not label or label == answer.label:
        await client.feedback([{"prediction_id": answer.id, "kind": "accept", "source": "you"}])
        return
    told = await client.labels([{"input": text, "label": label, "source": "you"}])
    if not told:
        console.print(f"The correction was not taken: {client.last_error}", highlight=False)
        return
    mine = client.acknowledged[-1]
    console.print("Taken. The fast tier learns it, and its next head answers ...", highlight=False)
    begun = time.monotonic()
    while time.monotonic() - begun < TURN_S:
        await asyncio.sleep(POLL_S)
        await client.versions()
        if client.covered.get(mine.topic, 0) <= mine.offset:
            continue
        again = await client.predict(text)
        if again is not None:
            console.print(
                f"After {time.monotonic() - begun:.0f} s, {again.version} says {again.label} ({again.score:.0%}).",
                highlight=False,
            )
            if again.label != label:
                console.print(
                    "It has learned from your correction, as one example among many. Say it again in other words.",
                    highlight=False,
                )
            return
    status = (await client.status()).get("learn") or {}
    why = (status.get("next_round") or {}).get("reason") or "no version that has it went live yet"
    console.print(f"Not yet: {why}", highlight=False)


async def _background(client: Client, plan: Plan) -> None:
    """New messages, so that rounds go on."""
    rows = itertools.chain(plan.later, itertools.cycle(plan.more))
    for seed in itertools.count(1):
        lot = list(itertools.islice(rows, LOT))
        await Traffic(client, lot, rate=RATE, seed=plan.seed + seed, name=f"later-{seed}").run()
