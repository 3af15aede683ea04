"""docs/reliability.md against the tests and failpoints that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_ft.failpoints import NAMES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
FAULTS = {
    int(number): held for number, held in re.findall(r"^\| (\d+) \|[^|]+\|[^|]*\| ([^|]+) \|$", PAGE, re.MULTILINE)
}


def faults_with_tests() -> set[int]:
    """Numbers of the faults that some test is named for."""
    return {
        int(number)
        for path in (ROOT / "tests").rglob("test_*.py")
        for number in re.findall(r"^(?:async )?def test_fault_(\d\d)_", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_docs_have_every_fault() -> None:
    assert sorted(FAULTS) == list(range(1, 30))


@pytest.mark.parametrize("number", range(1, 30))
def test_docs_say_of_each_fault_that_it_is_tested_or_why_not(number: int) -> None:
    held = FAULTS[number]
    if number in faults_with_tests():
        assert held == "test"
    else:
        assert re.match(r"Not yet: .{15,}", held), f"no test_fault_{number:02}_*, and no reason why not"


def test_docs_have_every_failpoint() -> None:
    assert tuple(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", PAGE, re.MULTILINE)) == NAMES


def test_every_failpoint_is_passed_somewhere() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("stream_ft", "connectors")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "failpoints.py"
    )
    assert {name for name in NAMES if f'"{name}"' not in sources} == set()
