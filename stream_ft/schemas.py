"""JSON Schemas of everything that other programs publish or read: events and control messages; and the HTTP service.

``python -m stream_ft.schemas docs/schemas`` writes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from stream_ft.control import Message
from stream_ft.events import Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """By name (``event.feedback``, ``control.rollback`` ...), the JSON Schema of one kind of message."""
    found: dict[str, dict[str, Any]] = {}
    for family, union in (("event", Event), ("control", Message)):
        for kind in get_args(union):
            name = f"{family}.{kind.__struct_config__.tag}"
            found[name] = {"$schema": DIALECT, "$id": f"urn:stream_ft:{name}", **msgspec.json.schema(kind)}
    return found


def render(schema: dict[str, Any]) -> str:
    """The text of a schema's file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def export(folder: Path) -> list[Path]:
    """Write every schema to ``folder`` as ``NAME.json``, and ``openapi.json``; returns the files written."""
    from stream_ft.serve import openapi  # needs the server; who only wants the messages' schemas does not

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in {**schemas(), "openapi": openapi.describe()}.items():
        path = folder / f"{name}.json"
        path.write_text(render(schema), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    for path in export(Path(sys.argv[1])):
        print(path)
