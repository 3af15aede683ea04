"""docs/notebooks/two-policies.ipynb: committed without outputs, it runs from top to bottom and shows what it says."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[2] / "docs" / "notebooks" / "two-policies.ipynb"
ROW = re.compile(r"^ *(\w+) +([\d.]+) +([\d.]+) +([\d.]+) ms +([\d.]+) s$", re.MULTILINE)
"""Of the comparison: policy, accuracy before and after the change, CPU, time until a label is live."""


def read() -> Any:
    return nbformat.read(PATH, as_version=4)  # type: ignore[no-untyped-call]


def test_it_is_committed_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], "clear all outputs before you commit"
            assert cell.execution_count is None


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    notebook = read()
    folder = str(tmp_path_factory.mktemp("notebook"))
    NotebookClient(notebook, timeout=150, resources={"metadata": {"path": folder}}).execute()
    return {cell.id: cell for cell in notebook.cells}


def text(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


@pytest.mark.slow
def test_the_stream_has_both_sides_of_the_change(ran: Any) -> None:
    told = text(ran["look"])
    assert told.startswith("800 messages, 15 labels before the change, 16 after")
    assert "new after it: click_and_collect\n" in told


@pytest.mark.slow
def test_both_policies_learn_and_the_fast_one_learns_sooner(ran: Any) -> None:
    rows = {name: [float(value) for value in values] for name, *values in ROW.findall(text(ran["compare"]))}
    assert list(rows) == ["rounds", "fast"]
    rounds, fast = rows["rounds"], rows["fast"]
    assert fast[0] > 0.6 > 0.4 > rounds[0], "rounds need hundreds of labels before their first version"
    assert fast[1] > 0.65
    assert rounds[1] > 0.45
    assert fast[3] < 2.0 < rounds[3]


@pytest.mark.slow
def test_it_draws_both_and_lists_what_the_gate_said(ran: Any) -> None:
    (picture,) = (output.data["image/png"] for output in ran["plot"].outputs if "image/png" in output.get("data", ()))
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    said = text(ran["versions"]).splitlines()
    assert said
    assert all(re.search(r"v\d+\.\d+\.0 +(accepted|refused) ", line) for line in said)
    assert any("accepted" in line for line in said)
