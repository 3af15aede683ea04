"""Both ways from a broker to a promoted version: what is published is read as it is, or after ingest workers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from house import WORDS, House, wait_for
from ingest_house import Ingest

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
COUNT = 90


def told(house: House) -> dict[str, Any]:
    """The learner's status, once there is one."""
    path = house.state / "learn.status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def events() -> list[tuple[str, dict[str, Any]]]:
    """Labelled events, predictions with a correction of each, and something of each kind that comes twice."""
    names = sorted(WORDS)
    made: list[tuple[str, dict[str, Any]]] = []
    for number in range(COUNT):
        name = names[number % len(names)]
        text = WORDS[name].format(number) + f" mail me at user{number}@example.org"
        if number % 3 == 0:
            made.append(("labels", {"id": f"l{number}", "input": text, "label": name}))
            continue
        prediction = {
            "id": f"p{number}", "time": time.time(), "model": "m", "version": "v0.0.0", "base": "b", "input": text,
            "output": names[(number + 1) % len(names)],
        }  # fmt: skip
        made.append(("predictions", prediction))
        made.append(("feedback", {"id": f"f{number}", "prediction_id": f"p{number}", "label": name}))
    return [*made, *made[:6], ("feedback", {"prediction_id": "p1", "kind": "reject"})]


@pytest.mark.parametrize("reads", ["published", "ingested"])
def test_a_version_is_promoted(tmp_path: Path, kafka_address: str, reads: str) -> None:
    with Ingest(tmp_path, kafka_address, INGEST__REDACT="true") as ingest:
        if reads == "ingested":
            pytest.importorskip("faust", reason="Faust is not installed")
            ingest.start()
        settings = {name: value for name, value in ingest.settings.items() if name != "STATE_DIR"}
        with House(tmp_path, **settings, LEARN__READS=reads) as house:
            house.start("learn")
            house.ready("learn")
            ingest.publish([("labels", {"input": f"this is {name}", "label": name}) for name in WORDS])
            wait_for("the labels to be known", lambda: told(house).get("counts", {}).get("events", 0) >= len(WORDS), 90)
            ingest.publish(events())
            unique = COUNT // 3 + 2 * (COUNT - COUNT // 3) + len(WORDS) + 1
            wait_for("every event to be applied", lambda: told(house)["counts"]["events"] >= unique, 120)
            wait_for("a promotion", lambda: not str(told(house)["version"]).startswith("v0.0"), 120)
            counts = told(house)["counts"]
            assert counts["events"] == unique
            assert counts["duplicates"] == 6
            assert counts["dead_letters"] == 0
            texts = [str(text) for (text,) in house.rows("SELECT input FROM claims WHERE correction IS NOT NULL")]
            assert sum("[EMAIL" in text for text in texts) == COUNT
            assert not any("@" in text for text in texts)
            assert house.stop("learn") == 143
