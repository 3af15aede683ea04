"""`simulate` on real data: the measurement is honest, repeatable, and works on files as they are published."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from stream_ft import simulate

pytestmark = pytest.mark.slow
MEASURED = {
    "cpu_ms_per_event",
    "peak_rss_mb",
    "predict_cpu_s",
    "train_cpu_s",
    "wall_s",
}


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("STREAM_FT_DATA")
    if not folder:
        pytest.skip("STREAM_FT_DATA is not set")
    return Path(folder)


def banking(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    return simulate(
        data / "banking77" / "train.csv",
        text_column="text",
        label_column="category",
        order="shuffle",
        out=out,
        **more,
    )


@pytest.mark.timeout(600)
def test_nothing_is_learned_from_permuted_labels(data: Path, tmp_path: Path) -> None:
    result = banking(data, tmp_path, limit=500, permute_labels=True)
    assert result["events"] == 500
    assert result["prequential_accuracy"] <= 0.03
    honest = banking(data, tmp_path / "honest", limit=500)
    assert honest["prequential_accuracy"] > 0.1, "the same part teaches something when its labels are right"


@pytest.mark.timeout(600)
def test_a_seed_fixes_the_outcome_and_the_test_file_changes_nothing_but_its_score(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    with other.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "category"], ["some text", "card_arrival"]])
    part = tmp_path / "part.csv"
    with (data / "banking77" / "test.csv").open(newline="") as source, part.open("w", newline="") as file:
        csv.writer(file).writerows(row for i, row in enumerate(csv.reader(source)) if i % 10 == 0)
    first = banking(data, tmp_path / "1", limit=400, seed=3, test=part)
    second = banking(data, tmp_path / "2", limit=400, seed=3, test=part)
    third = banking(data, tmp_path / "3", limit=400, seed=3, test=other)
    scored = {name for name in first if "final_test" in name} | {"macro_f1", "recall_at_precision_99"}
    for name in first.keys() - MEASURED:
        assert first[name] == second[name], name
        if name not in scored:
            assert first[name] == third[name], name
    assert first["promotions"] >= 1
    assert first["final_test_accuracy"] != third["final_test_accuracy"]


@pytest.mark.timeout(600)
def test_spam_is_found_at_a_precision_of_99_percent(data: Path, tmp_path: Path) -> None:
    result = simulate(
        data / "sms_spam" / "sms.tsv", text_column="1", label_column="0", limit=600, out=tmp_path, order="file"
    )
    assert result["classes"] == 2
    assert result["recall_at_precision_99"]["spam"] > 0.2
