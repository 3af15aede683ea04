"""The tables of docs/configuration.md, made from the settings and the docstrings under them.

``python -m stream_ft.config_reference docs/configuration.md`` writes them between the page's two marks;
with ``--check`` nothing is written, and the exit code is 1 if the page differs.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from msgspec import Struct
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stream_ft.config import Settings

BEGIN = "<!-- From here on by `python -m stream_ft.config_reference docs/configuration.md`. -->"
END = "<!-- Until here. -->"
HEAD = "| Setting | In the environment | Type | Default | Meaning |\n| --- | --- | --- | --- | --- |\n"
KINDS = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
LIMITS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
"""By the name of a bound; two of ``ge`` and ``le`` become ``... to ...``."""


class Row(Struct, frozen=True, kw_only=True):
    """What there is to say of one setting; all of it Markdown."""

    name: str
    variable: str
    kind: str
    default: str
    meaning: str


def docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a class, in one line, by the field's name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[field.target.id] = " ".join(after.value.value.split())
    return found


def sections() -> Iterator[tuple[str, str, list[Row]]]:
    """Name, first line of the class's docstring, and settings of each section; what is in none of them comes last,
    under no name.

    Raises:
        ValueError: a setting has no docstring.
    """
    whole = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            told = docstrings(kind)
            rows = [_row(f"{name}.{key}", one, told.get(key)) for key, one in kind.model_fields.items()]
            yield name, markdown(inspect.getdoc(kind) or "").partition("\n")[0], rows
        else:
            whole.append(_row(name, field, docstrings(Settings).get(name)))
    yield "", "Of the whole process.", whole


def _row(name: str, field: FieldInfo, told: str | None) -> Row:
    if told is None:
        raise ValueError(f"{name} has no docstring in stream_ft/config*.py")
    return Row(
        name=f"`{name}`",
        variable=f"`STREAM_FT_{name.replace('.', '__').upper()}`",
        kind=kind_of(field),
        default=f"`{json.dumps(field.get_default())}`",
        meaning=markdown(told).replace("|", "\\|"),
    )


def kind_of(field: FieldInfo) -> str:
    """The type of a setting and its bounds, in words.

    Raises:
        ValueError: a type or a bound that this page has no words for.
    """
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(field.annotation))
    bounds: dict[str, Any] = {}
    for constraint in field.metadata:
        bounds |= {name: getattr(constraint, name) for name in LIMITS if getattr(constraint, name, None) is not None}
    if field.annotation not in KINDS or len(bounds) < len(field.metadata):
        raise ValueError(f"no words for {field!r}")
    return ", ".join([KINDS[field.annotation], *_in_words(bounds)])


def _in_words(bounds: Mapping[str, Any]) -> list[str]:
    if set(bounds) == {"ge", "le"}:
        return [f"{bounds['ge']:,} to {bounds['le']:,}"]
    return [LIMITS[name].format(f"{value:,}") for name, value in bounds.items()]


def markdown(text: str) -> str:
    """A docstring as Markdown: code in single backticks, and a page that it names as a link."""
    text = text.replace("``", "`")
    return re.sub(r"docs/([\w-]+)\.md(#[\w-]+)?", lambda found: f"[{found[1]}]({found[1]}.md{found[2] or ''})", text)


def tables() -> str:
    """Everything between the marks."""
    parts = []
    for name, told, rows in sections():
        heading = f"## `[{name}]`\n\n{told}" if name else f"## {told.rstrip('.')}"
        lines = [f"| {row.name} | {row.variable} | {row.kind} | {row.default} | {row.meaning} |\n" for row in rows]
        parts.append(f"{heading}\n\n{HEAD}{''.join(lines)}")
    return "\n".join(parts)


def page(text: str) -> str:
    """A page with what is between its marks made anew.

    Raises:
        ValueError: it has not both marks, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the line {BEGIN if not begin else END}")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    path = Path(next(word for word in arguments if not word.startswith("-")))
    present = path.read_text(encoding="utf-8")
    wanted = page(present)
    if "--check" in arguments:
        if present != wanted:
            print(f"{path} differs: run python -m stream_ft.config_reference {path}", file=sys.stderr)
        return int(present != wanted)
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
