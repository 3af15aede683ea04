from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.errors import ConfigError
from stream_ft.serve.predictions_id import PredictionIds, load_key

KEY = bytes(range(32))


def test_what_was_issued_is_recognised_also_after_a_restart() -> None:
    name = PredictionIds(KEY).issue()
    assert PredictionIds(KEY).issued(name)
    assert not PredictionIds(bytes(32)).issued(name)


def test_no_two_are_the_same() -> None:
    ids = PredictionIds(KEY)
    assert len({ids.issue() for _ in range(1_000)}) == 1_000


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 51), st.characters())
def test_an_id_that_was_changed_anywhere_is_not_recognised(place: int, char: str) -> None:
    ids = PredictionIds(KEY)
    name = ids.issue()
    changed = name[:place] + char + name[place + 1 :]
    assert ids.issued(changed) == (changed == name)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_made_up_ids_are_not_recognised(name: str) -> None:
    assert not PredictionIds(KEY).issued(name)


def test_the_key_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "serve.key"
    key = load_key(path)
    assert load_key(path) == key
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["serve.key"]


@pytest.mark.parametrize("content", ["", "zz", "ab", "ü" * 64])
def test_a_file_that_is_no_key_is_refused_with_a_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "serve.key"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_key(path)
    assert "Remove it" in caught.value.remedy
