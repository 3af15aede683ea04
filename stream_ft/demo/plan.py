"""What a demo will play: the shop's messages, or the user's own file."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from stream_ft.connectors.files import Row, guess_columns, read_rows
from stream_ft.demo import shop
from stream_ft.demo.traffic import spoiled
from stream_ft.errors import ConfigError

MOST_ROWS = 3_400
LEAST_ROWS = 800
MOST_TEST = 600
STREAM_SHARE = 0.75
"""Of a user's file, without its final test; the rest is what comes after."""
LATER = 6_000
"""Messages of the shop for the talk: ten minutes of them."""
IMPORTED = 700
"""Spoiled labels that the broken import publishes."""


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that is decided before the demo begins.

    Attributes:
        title: of screen and report.
        stream: messages in their order.
        test: asked at the end, never labelled.
        more: what goes on arriving when the stream is over; after that it comes again, and no longer counts.
        later: what arrives during the talk at the end; empty if nothing new is left.
        imported: labelled events of the broken import.
        freeze_after: labels after which the frozen copy is taken.
        min_evaluation: examples that the gate asks for.
        seed: of who labels what.
        told: what was guessed about the user's file, in words.
        phase_names: what each phase of the stream is, in words.
    """

    title: str
    stream: list[Row]
    test: list[Row]
    more: list[Row]
    imported: list[dict[str, Any]]
    later: list[Row] = []
    freeze_after: int = 1_000
    min_evaluation: int = 200
    seed: int = 0
    told: str = ""
    phase_names: dict[str, str] = {}

    def phases(self) -> list[tuple[int, str]]:
        """First event and name of each phase of the stream."""
        found: list[tuple[int, str]] = []
        for index, row in enumerate(self.stream):
            if not found or found[-1][1] != row.phase:
                found.append((index, row.phase))
        return found if len(found) > 1 else []


def of_shop(limit: int | None = None) -> Plan:
    """The messages that ship with the package."""
    stream = shop.committed("train")[:limit]
    more = shop.generate(shop.SEED + 1, rows=1_500, phase_1=0, test=0).stream
    last = [row for row in stream if row.phase == stream[-1].phase]
    return Plan(
        title="Messages to a shop",
        stream=stream,
        test=shop.committed("test"),
        more=list(more),
        imported=spoiled(last, IMPORTED, seed=1),
        phase_names={
            "1": "before the change",
            "2": "two after-sales desks have exchanged their work, and click and collect is new",
        },
        later=list(shop.generate(shop.SEED + 2, rows=LATER, phase_1=0, test=0).stream),
    )


def of_file(path: Path, *, text_column: str | None = None, label_column: str | None = None) -> Plan:
    """The user's own messages, in their order; some are set aside for the final test.

    Args:
        path: CSV, TSV or JSON lines.
        text_column, label_column: guessed if not given.

    Raises:
        ConfigError: the file cannot be read, or has too few rows.
    """
    if text_column is not None and label_column is not None:
        why = f"Texts are read from column {text_column!r}, labels from column {label_column!r}."
    else:
        guess = guess_columns(path)
        text_column, label_column = text_column or guess.text_column, label_column or guess.label_column
        why = guess.why
    found = read_rows(path, text_column=text_column, label_column=label_column)
    rows = [Row(text=row.text, label=row.label, phase="") for row in found if row.text.strip() and row.label.strip()]
    if len(rows) < LEAST_ROWS:
        raise ConfigError(
            f"{path} has {len(rows)} labelled texts; the demo needs {LEAST_ROWS}.",
            "Try stream-ft simulate, which takes files of any length.",
        )
    if len({row.label for row in rows}) < 2:
        raise ConfigError(f"All texts of {path} have the same label.", "Check which column holds the labels.")
    random_ = random.Random(0)
    labels = [row.label for row in rows]
    if sum(a != b for a, b in pairwise(labels)) < len(Counter(labels)) * 4:
        random_.shuffle(rows)  # sorted by label: as a stream it would be one drift after another
        order = " Its rows are sorted by label, so they are shuffled."
    else:
        order = ""
    rows = rows[: int(MOST_ROWS / STREAM_SHARE) + MOST_TEST]
    aside = set(random_.sample(range(len(rows)), min(MOST_TEST, len(rows) // 6)))
    rest = [row for index, row in enumerate(rows) if index not in aside]
    stream = rest[: int(STREAM_SHARE * len(rest))]
    short = len(stream) < 2_000
    return Plan(
        title=path.name,
        stream=stream,
        test=[rows[index] for index in sorted(aside)],
        more=rest[len(stream) :],
        imported=spoiled(stream, IMPORTED, seed=1),
        freeze_after=len(stream) // 3 if short else 1_000,
        min_evaluation=100 if short else 200,
        told=f"{why}{order} {len(aside)} rows are set aside for the final test.",
    )
