"""Publishes numbered events, and journals what the broker acknowledged; ``ledger.py`` starts and kills it.

    python benchmarks/ledger_publisher.py ADDRESS TOPIC JOURNAL STOP RATE

It goes on after the last number of the journal; what was acknowledged and not journaled is published again. It ends
when the file STOP is there. ``LEDGER_KILL=POINT:N`` lets it kill itself at a point of the N-th batch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from kafka import KafkaProducer

BATCH = 50
POINTS = ("publisher.before_send", "publisher.after_send", "publisher.before_journal", "publisher.in_journal")
LABELS = ("refund", "delivery", "greeting")


def body(number: int) -> dict[str, object]:
    """One event: mostly good; some are no event, and some have the identity of the one before and other words."""
    draw = random.Random(number)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(8)]
    label = LABELS[number % 3]
    event: dict[str, object] = {
        "id": f"e{number}", "input": f"{label} {' '.join(words)} n{number}x", "label": label, "source": "ledger",
    }  # fmt: skip
    if number % 50 == 10:
        event["label"] = 7
    if number % 50 == 20:
        event["id"] = f"e{number - 1}"
    return event


def main() -> None:
    address, topic, journal, stop, rate = sys.argv[1:]
    target, _, turn = os.environ.get("LEDGER_KILL", "").partition(":")
    batches = 0

    def point(name: str) -> None:
        if name == target and batches == int(turn):
            os.kill(os.getpid(), signal.SIGKILL)

    producer = KafkaProducer(bootstrap_servers=address, linger_ms=5, delivery_timeout_ms=120_000, max_block_ms=120_000)
    file = os.open(journal, os.O_CREAT | os.O_RDWR | os.O_APPEND)
    known = Path(journal).read_text().split()
    number = 0 if not known else int(known[-1]) + 1
    while not Path(stop).exists():
        batches += 1
        numbers = range(number, number + BATCH)
        point("publisher.before_send")
        sent = []
        for each in numbers:
            event = body(each)
            sent.append(producer.send(topic, json.dumps(event).encode(), key=str(event["id"]).encode()))
        point("publisher.after_send")
        producer.flush()
        for future in sent:
            future.get(120)
        point("publisher.before_journal")
        lines = [f"{each}\n" for each in numbers]
        os.write(file, "".join(lines[: BATCH // 2]).encode())
        point("publisher.in_journal")
        os.write(file, "".join(lines[BATCH // 2 :]).encode())
        number += BATCH
        time.sleep(BATCH / float(rate))
    producer.close()


if __name__ == "__main__":
    main()
