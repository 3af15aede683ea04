"""Writes grafana/dashboards/*.json from the code beside it.

python grafana/generate.py            writes them
python grafana/generate.py --check    says which differ, and exits with 1 if any does
"""

from __future__ import annotations

import sys
from pathlib import Path

from boards import overview, quality, serving, streaming, training
from boards.panel import as_json

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = (overview.BOARD, quality.BOARD, training.BOARD, streaming.BOARD, serving.BOARD)


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    wanted = {f"{board.uid.removeprefix('stream-ft-')}.json": as_json(board) for board in BOARDS}
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    differing = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if "--check" in arguments:
        for name in differing:
            print(f"grafana/dashboards/{name} differs: run python grafana/generate.py", file=sys.stderr)
        return 1 if differing else 0
    FOLDER.mkdir(exist_ok=True)
    for name in differing:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    print(f"{len(wanted)} dashboards, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
