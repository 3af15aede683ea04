"""Every setting is in docs/configuration.md, with its default, and nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stream_ft.config import Settings, flatten

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
SETTINGS = flatten(Settings.model_construct().model_dump())
ROWS = {
    name: (default, meaning)
    for name, default, meaning in re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \| (.*) \|$", PAGE, re.MULTILINE)
}


def test_docs_name_the_same_settings_as_the_code() -> None:
    assert set(ROWS) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_docs_have_the_default_of_the_code(name: str) -> None:
    assert json.loads(ROWS[name][0]) == SETTINGS[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_docs_say_what_a_setting_means(name: str) -> None:
    assert len(ROWS[name][1]) > 8
