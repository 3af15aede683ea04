"""Which rows are fed: those that ingest takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ft import simulate
from stream_ft.connectors.files import Row
from stream_ft.errors import ConfigError
from stream_ft.wiring.feeding import usable


@pytest.mark.parametrize(
    ("text", "label", "good"),
    [("hello", "a", True), ("", "a", False), ("hello", "", False), ("\u200b", "a", False), ("hello", " ", False)],
)
def test_a_row_is_usable_if_ingest_takes_it(text: str, label: str, good: bool) -> None:
    assert usable(Row(text=text, label=label, phase="")) is good


def test_a_file_without_labels_is_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("text,label\n" + "".join(f"message number {n},\n" for n in range(10)))
    with pytest.raises(ConfigError, match="has a text and a label"):
        simulate(path, text_column="text", label_column="label", out=tmp_path / "out")
