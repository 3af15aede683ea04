"""docs/configuration.md is what the settings and their docstrings say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

from stream_ft import config_reference
from stream_ft.config import Settings, flatten, load

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "configuration.md"
PAGE = PATH.read_text(encoding="utf-8")
ROWS = {
    name: (variable, default)
    for name, variable, default in re.findall(
        r"^\| `([a-z_.]+)` \| `([A-Z_]+)` \| [^|]+ \| `(.*?)` \| .{8,} \|$", PAGE, re.MULTILINE
    )
}


def test_docs_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert config_reference.main(["--check", str(PATH)]) == 0, capsys.readouterr().err


def test_docs_that_differ_are_told_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("| `8080` |", "| `8081` |"), encoding="utf-8")
    assert config_reference.main(["--check", str(page)]) == 1
    assert "python -m stream_ft.config_reference" in capsys.readouterr().err
    assert config_reference.main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == PAGE


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Settings\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        config_reference.main([str(page)])
    assert page.read_text(encoding="utf-8") == "# Settings\n"


def test_docs_name_every_setting_with_its_default() -> None:
    wanted = flatten(Settings.model_construct().model_dump())
    assert {name: json.loads(default) for name, (_, default) in ROWS.items()} == wanted


@pytest.mark.parametrize("name", ["serve.port", "kafka.partitions", "seed"])
def test_a_variable_of_the_docs_sets_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROWS[name][0], "77")
    assert flatten(load().model_dump())[name] == 77


def test_a_setting_without_words_is_not_left_out() -> None:
    with pytest.raises(ValueError, match="no words"):
        config_reference.kind_of(FieldInfo.from_annotation(Annotated[complex, Field()]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no words"):
        config_reference.kind_of(FieldInfo.from_annotation(Annotated[int, Field(multiple_of=2)]))  # type: ignore[arg-type]


def test_every_other_variable_that_is_read_is_in_the_docs() -> None:
    """Of those that begin as ours do: a setting, a whole section, or in the table of the others."""
    told = {variable for variable, _ in ROWS.values()} | {f"STREAM_FT_{name.upper()}" for name in Settings.model_fields}
    told |= set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", PAGE.partition(config_reference.END)[2]))
    read = set()
    for path in [*(ROOT / "stream_ft").rglob("*.py"), *(ROOT / "connectors").rglob("*.py"), ROOT / "deploy/setup.sh"]:
        read |= set(re.findall(r"\bSTREAM_FT_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8")))
    assert read - told == {"STREAM_FT_SUPERVISED"}, "only `up` sets that, for its children"
