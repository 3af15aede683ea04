"""How records are put together into transactions changes nothing: the tables are the same, row by row."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from store_kit import START, Feeder, open_store, sentence

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction
from stream_ft.replay.store import Item

TABLES = ("predictions", "claims", "examples", "parked", "labels", "outbox", "offsets", "days")


def stream(draw: random.Random, feeder: Feeder, count: int) -> list[Item]:
    """Predictions, feedback, labels: repeated, contradicting, too early, of unknown labels, of texts nearly alike."""
    items = []
    for n in range(count):
        at = START + n
        if n > 20 and not draw.randrange(8):
            again = draw.choice(items)
            kind = again.record.topic.rpartition(".")[2]
            items.append(feeder.item(kind, again.record.value, at=at))
            continue
        text = sentence(draw.randrange(40)) + draw.choice(["", "", "!", " ok"])
        label = LabelCorrection(label=f"label-{draw.randrange(4)}")
        id = draw.choice([None, f"e{draw.randrange(300)}"])
        source = draw.choice(["a", "b", "c", "model"])
        match draw.randrange(4):
            case 0:
                event: Prediction | Feedback | LabelledEvent = Prediction(
                    id=f"p{draw.randrange(60)}", time=at, model="m", version="v0.1.0", base="b", input=text, output="x"
                )
            case 1:
                event = Feedback(
                    id=id, prediction_id=f"p{draw.randrange(60)}", kind="correct", correction=label, source=source
                )
            case 2:
                event = Feedback(id=id, prediction_id=f"p{draw.randrange(60)}", kind="reject", source=source)
            case _:
                origin = draw.choice(["label_topic", "user"])
                event = LabelledEvent(id=id, input=text, correction=label, origin=origin, source=source)
        kind = {Prediction: "predictions", Feedback: "feedback", LabelledEvent: "labels"}[type(event)]
        items.append(feeder.item(kind, event, at=at))
    return items


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [{}, {"capacity": 12}, {"holdout_share": 0.5, "holdout_after": 2}])
def test_a_batch_is_as_good_as_one_by_one(tmp_path: Path, seed: int, settings: dict[str, object]) -> None:
    found = []
    for size in (1, 7, 600):
        store = open_store(tmp_path / f"{size}.db", **settings)
        feeder = Feeder(store)
        items = stream(random.Random(seed), feeder, 600)
        totals = [0, 0]
        for start in range(0, len(items), size):
            applied = feeder.apply(*items[start : start + size])
            totals[0] += applied.duplicates
            totals[1] += len(applied.rejects)
        counts = store.count()
        memory = [(e.id, e.seq, e.input, e.label, e.source, e.holdout) for e in (*store.training(), *store.holdout())]
        store.close()
        db = sqlite3.connect(tmp_path / f"{size}.db")
        tables = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES}
        days = [table for (table,) in db.execute("SELECT name FROM sqlite_master WHERE name GLOB 'ids_*'")]
        tables |= {day: db.execute(f"SELECT * FROM {day}").fetchall() for day in days}
        db.close()
        found.append((tables, counts, memory, totals))
    assert found[0] == found[1] == found[2]
    tables, counts, _, (duplicates, rejects) = found[0]
    assert min(counts.train, counts.events, duplicates, rejects, len(tables["claims"])) > 0
