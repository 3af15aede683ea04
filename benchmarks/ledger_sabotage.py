"""``stream-ft learn`` with a defect that the ledger must find: a ledger that cannot fail proves nothing.

python benchmarks/ledger_sabotage.py offset-first|no-dedup
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from stream_ft.replay import intake, store
from stream_ft.replay.applied import Applied, Item
from stream_ft.replay.identity import name_of_place


def offset_first() -> None:
    """Offsets are passed before what they pass is stored."""
    whole = store.Store.apply

    def apply(self: Any, items: Sequence[Item], *, now: float) -> Applied:
        passed = {(item.record.topic, item.record.partition): item.record.offset + 1 for item in items}
        self._db.executemany(
            "INSERT OR REPLACE INTO offsets VALUES(?,?,?)", [(*place, offset) for place, offset in passed.items()]
        )
        return whole(self, items, now=now)

    store.Store.apply = apply  # type: ignore[method-assign]


def no_dedup() -> None:
    """Events are known by where they lie alone, not by who they are."""

    def name(_: Any, item: Item) -> bytes:
        return name_of_place(item.record.topic, item.record.partition, item.record.offset)

    def key(_: Any, record: Any) -> str:
        return f"e:{record.topic}/{record.partition}/{record.offset}"

    intake.Intake._name = name  # type: ignore[assignment,method-assign]
    intake.Intake._key = staticmethod(key)  # type: ignore[method-assign]


SABOTAGE = {"offset-first": offset_first, "no-dedup": no_dedup}

if __name__ == "__main__":
    SABOTAGE[sys.argv[1]]()
    sys.argv = ["stream-ft", "learn"]
    from stream_ft.cli import main

    main()
