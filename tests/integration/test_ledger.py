"""The ledger of events finds what is lost and what is applied twice, and finds nothing where nothing is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faust", reason="Faust is not installed")
pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(420)]
LEDGER = Path(__file__).parents[2] / "benchmarks" / "ledger.py"


def ledger(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and figures."""
    command = [sys.executable, str(LEDGER), "--quick", "--kills", "3", "--out", str(folder / "out.json"), *arguments]
    code = subprocess.run(command, timeout=400).returncode
    return code, json.loads((folder / "out.json").read_text())


def test_nothing_is_lost_and_nothing_applied_twice(tmp_path: Path) -> None:
    code, told = ledger(tmp_path)
    assert (code, told["lost"], told["applied_twice"], told["kills"]) == (0, 0, 0, 3)
    assert told["events"] >= 500
    assert told["dead_letters"] > 0


@pytest.mark.parametrize(("sabotage", "shows"), [("offset-first", "lost"), ("no-dedup", "applied_twice")])
def test_a_defect_shows(tmp_path: Path, sabotage: str, shows: str) -> None:
    code, told = ledger(tmp_path, "--sabotage", sabotage)
    assert code == 1
    assert told[shows] > 0
