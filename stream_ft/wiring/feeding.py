"""Which rows of a file are fed, in which order, and under which labels: fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stream_ft.connectors.files import Row
from stream_ft.errors import ConfigError
from stream_ft.ingest.texts import label_reject, text_reject


def order_rows(rows: list[Row], *, order: str, seed: int, limit: int | None) -> list[Row]:
    """The rows in the order in which they are fed.

    Raises:
        ConfigError: ``order`` is neither ``file`` nor ``shuffle``.
    """
    if order not in ("file", "shuffle"):
        raise ConfigError(f"The order {order!r} is not known.", "Use --order file or --order shuffle.")
    rows = list(rows)
    if order == "shuffle":
        random.Random(seed).shuffle(rows)
    return rows if limit is None else rows[:limit]


def usable(row: Row) -> bool:
    """Whether ingest would take this row; what it would make a dead letter of is no event that could be predicted."""
    return text_reject(row.text) is None and label_reject(row.label) is None


def fed_labels(rows: Sequence[Row], *, noise: float, seed: int) -> list[str]:
    """The labels as they are fed: a share ``noise`` of them is replaced by another class, drawn uniformly."""
    if not 0 <= noise <= 1:
        raise ConfigError(f"A noise of {noise} is not a share.", "Give a number between 0 and 1.")
    classes = sorted({row.label for row in rows})
    draw = random.Random(seed + 1)
    fed = []
    for row in rows:
        if len(classes) > 1 and draw.random() < noise:
            fed.append(draw.choice([name for name in classes if name != row.label]))
        else:
            fed.append(row.label)
    return fed


def permuted(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows with their labels permuted at random: nothing can be learned from them."""
    labels = [row.label for row in rows]
    random.Random(seed + 2).shuffle(labels)
    return [Row(text=row.text, label=label, phase=row.phase) for row, label in zip(rows, labels, strict=True)]
