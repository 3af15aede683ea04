"""The dashboards against Grafana's own schema, by the TypeScript compiler."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOARDS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
}
TYPES = {"timeseries": "Chart", "stat": "Number", "row": "Row"}
OPTIONS = ("--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "node", "--module", "esnext")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the schema and the compiler, as their lock file has them."""
    folder = tmp_path_factory.mktemp("types")
    for name in ("package.json", "package-lock.json", "types.ts"):
        shutil.copy2(ROOT / "grafana" / "typecheck" / name, folder / name)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def complaints(folder: Path, boards: dict[str, Any]) -> list[str]:
    """What the compiler says of these dashboards; written as literals, or their strings would be any strings."""
    lines = ["import type {Annotation, Chart, Frame, Number, Row} from './types';"]
    for name, given in boards.items():
        board = copy.deepcopy(given)
        for i, panel in enumerate(board.pop("panels")):
            lines.append(f"export const {name}_panel_{i}: {TYPES[panel['type']]} = {json.dumps(panel)};")
        for i, annotation in enumerate(board.pop("annotations")["list"]):
            lines.append(f"export const {name}_annotation_{i}: Annotation = {json.dumps(annotation)};")
        lines.append(f"export const {name}: Frame = {json.dumps(board)};")
    (folder / "boards.ts").write_text("\n".join(lines), "utf-8")
    done = subprocess.run(
        [str(folder / "node_modules" / ".bin" / "tsc"), *OPTIONS, "boards.ts"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if "error TS" in line]
    assert bool(found) == (done.returncode != 0), done.stdout + done.stderr
    return found


def test_every_dashboard_is_of_grafanas_types(compiler: Path) -> None:
    assert complaints(compiler, BOARDS) == []


def test_a_misspelt_field_and_a_wrong_value_are_found(compiler: Path) -> None:
    board = copy.deepcopy(BOARDS["overview"])
    chart = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    number = next(panel for panel in board["panels"] if panel["type"] == "stat")
    chart["options"]["legend"]["showLegends"] = True
    chart["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] = "dotted"
    chart["targets"][0]["expression"] = "up"
    number["options"]["colorMode"] = "bright"
    number["titel"] = "x"
    board["refesh"] = "5s"
    found = complaints(compiler, {"overview": board})
    assert len(found) >= 3, "the compiler tells of the first mistake of each literal"
