"""A user's file of labelled texts: CSV, TSV or JSON lines, as people have them.

What is read: UTF-8 with or without a byte-order mark, and UTF-16 with one. ``.tsv`` (and any other file whose first
line has a tab) is tab-separated, one row a line: quotes are text there, unless they enclose a whole field. Everything
else is CSV, separated by ``,``, ``;``, tab or ``|``: by what divides the first lines evenly. ``.jsonl``, ``.ndjson``
and ``.json`` hold one object a line, or one list of objects. Wholly blank lines are passed over; an empty text or label
is kept, for ingest to refuse with its reason.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_ft.errors import ConfigError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_NAMES = (
    "text", "message", "sentence", "utterance", "query", "question", "content", "body", "input", "review", "comment",
    "description", "subject", "title", "sms", "tweet",
)  # fmt: skip
LABEL_NAMES = (
    "label", "category", "intent", "class", "target", "topic", "sentiment", "tag", "output", "answer", "y",
)  # fmt: skip
LOOKED_AT = 2_000
"""Rows that a guess looks at."""
LOOKED_AT_CHARACTERS = 100_000
"""Of a CSV file, for its separator. Below what the csv module takes as one field."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One labelled text; ``phase`` is empty where the file tells none."""

    text: str
    label: str
    phase: str = ""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Columns to try, as :func:`read_rows` takes them, and why, for the user to judge."""

    text_column: str
    label_column: str
    why: str


@dataclass(frozen=True, kw_only=True)
class _Table:
    path: Path
    rows: list[tuple[int, list[str]]]
    """Line number (or place in a JSON list), and cells."""
    keys: list[str] | None
    """Names of the columns where the format itself names them (JSON)."""


def read_rows(path: Path, *, text_column: str, label_column: str, phase_column: str | None = None) -> list[Row]:
    """All rows of a file, in its order.

    Args:
        path: CSV, TSV or JSON lines.
        text_column, label_column, phase_column: names of the first line (or of the JSON fields). If every one given is
            a number that is no name there, the file has no header and columns count from 0.

    Raises:
        ConfigError: the file, its encoding, a column or a row cannot be used; says which, and what to do.
    """
    table = _table(path)
    wanted = [text_column, label_column] + ([phase_column] if phase_column is not None else [])
    places, header = _places(table, wanted)
    width = len(table.rows[0][1])
    rows = []
    for line, cells in table.rows[1:] if header else table.rows:
        if len(cells) <= max(places) or any(cells[width:]):
            raise ConfigError(
                f"Line {line} of {path} has {len(cells)} columns, not {width}.",
                "Mend that line: a text that holds the separator is put in double quotes.",
            )
        found = [cells[place] for place in places]
        rows.append(Row(text=found[0], label=found[1], phase=found[2] if len(found) > 2 else ""))
    if not rows:
        raise ConfigError(f"{path} has a header and no rows.", "Give a file with at least one labelled text.")
    return rows


def guess_columns(path: Path) -> Guess:
    """Which columns hold text and label: by their names, else by what is in them.

    Raises:
        ConfigError: the file cannot be read, or nothing in it looks like texts with labels.
    """
    table = _table(path)
    first = table.keys or [cell.strip() for cell in table.rows[0][1]]
    lower = [name.lower() for name in first]
    text = next((lower.index(name) for name in TEXT_NAMES if name in lower), None)
    label = next((lower.index(name) for name in LABEL_NAMES if name in lower), None)
    if text is not None and label is not None:
        return Guess(
            text_column=first[text],
            label_column=first[label],
            why=f"Columns {first[text]!r} and {first[label]!r}, by their names.",
        )
    if len(first) < 2:
        raise ConfigError(
            f"{path} has one column; a text and its label are needed.", "Separate them with a comma or a tab."
        )
    body = [cells for _, cells in table.rows[1 : LOOKED_AT + 1] if len(cells) == len(first)]
    if len(body) < 2:
        raise ConfigError(f"{path} has too few rows to guess its columns.", "Name them: --text-column, --label-column.")
    columns = [[cells[i].strip() for cells in body] for i in range(len(first))]
    if text is None:
        others = [i for i in range(len(first)) if i != label]
        text = max(others, key=lambda i: (sum(map(len, columns[i])), -i))
    if label is None:
        label = _label_by_content(columns, text)
    if label is None:
        raise ConfigError(
            f"No column of {path} looks like a label: few values that come again and again.",
            "Name the columns: --text-column, --label-column.",
        )
    named = table.keys is not None or _is_header(first, columns, label)
    names = first if named else [str(i) for i in range(len(first))]
    return Guess(
        text_column=names[text],
        label_column=names[label],
        why=f"Column {names[text]!r} has the longest texts, column {names[label]!r}"
        f" the {len(set(columns[label]))} values that come again"
        f"{'' if named else '; the file has no header, so columns count from 0'}.",
    )


def _label_by_content(columns: Sequence[Sequence[str]], text: int) -> int | None:
    """The column, not the text, with the fewest distinct values of at least two; words before numbers."""
    scored = []
    for i, values in enumerate(columns):
        distinct = set(values) - {""}
        if i == text or len(distinct) < 2 or len(distinct) > max(2, len(values) // 2):
            continue
        numeric = all(value.lstrip("+-").replace(".", "", 1).isdigit() for value in distinct)
        scored.append((numeric, len(distinct), i))
    return min(scored)[2] if scored else None


def _is_header(first: Sequence[str], columns: Sequence[Sequence[str]], label: int) -> bool:
    """A first line is a header if its cells are distinct names and its label is not among those that come again."""
    count = Counter(columns[label])
    return len(set(first)) == len(first) and all(first) and count[first[label]] == 0


def _places(table: _Table, wanted: Sequence[str]) -> tuple[list[int], bool]:
    """Index of each wanted column, and whether the first row is a header."""
    width = len(table.keys or table.rows[0][1])
    names = table.keys or [cell.strip() for cell in table.rows[0][1]]
    if table.keys is None and all(column.isdecimal() and column not in names for column in wanted):
        for column in wanted:
            if int(column) >= width:
                raise ConfigError(
                    f"{table.path} has {width} column{'s' if width != 1 else ''}; there is no column {column}.",
                    "Columns of a file without a header count from 0.",
                )
        return [int(column) for column in wanted], False
    places = []
    for column in wanted:
        if column in names:
            if names.count(column) > 1:
                raise ConfigError(f"{table.path} has several columns {column!r}.", "Rename all but one.")
            places.append(names.index(column))
        elif column.isdecimal() and int(column) < width and table.keys is None:
            places.append(int(column))
        else:
            shown = ", ".join(repr(name if len(name) <= 40 else name[:39] + "…") for name in names[:20])
            raise ConfigError(
                f"{table.path} has no column {column!r}.",
                f"Its first line has {shown}. Columns of a file without a header are given by number, from 0.",
            )
    return places, table.keys is None


def _table(path: Path) -> _Table:
    text = _decode(path)
    if not text.strip():
        raise ConfigError(f"{path} is empty.", "Give a file with at least one labelled text.")
    if path.suffix.lower() in JSON_SUFFIXES:
        return _json_table(path, text)
    first = next(line for line in text.splitlines() if line.strip())
    if path.suffix.lower() == ".tsv" or (path.suffix.lower() != ".csv" and "\t" in first):
        rows = [
            (number, [_unquoted(cell) for cell in line.removesuffix("\r").split("\t")])
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
        return _Table(path=path, rows=rows, keys=None)
    rows = _csv_rows(path, text, _separator(text))
    if not rows:  # nothing but separators and empty quotes
        raise ConfigError(f"{path} has no text in any column.", "Give a file with at least one labelled text.")
    return _Table(path=path, rows=rows, keys=None)


def _csv_rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    # The module's limit is that of the whole process, and 131,072 characters: one long text would refuse the file.
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ConfigError(
            f"Line {reader.line_num} of {path} is not CSV: {error}.",
            "A quote inside a quoted text is written twice; a file with bare quotes is read as .tsv.",
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _separator(text: str) -> str:
    """The separator that divides all of the first lines into the same number of columns, the most; else a comma."""
    lines = list(io.StringIO(text[:LOOKED_AT_CHARACTERS], newline=""))  # ends of lines as csv sees them, a bare \r too
    if len(text) > LOOKED_AT_CHARACTERS and len(lines) > 1:
        lines.pop()  # cut off: its columns are not all there
    lines = [line for line in lines[:20] if line.strip()]
    best, columns = ",", 1
    for separator in ",;\t|":
        try:
            widths = {len(cells) for cells in csv.reader(lines, delimiter=separator)}
        except csv.Error:  # it divides nothing; what is wrong with the file is said when it is read
            continue
        if len(widths) == 1 and (width := widths.pop()) > columns:
            best, columns = separator, width
    return best


def _unquoted(cell: str) -> str:
    """A field that is quoted as a whole, without its quotes."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _json_table(path: Path, text: str) -> _Table:
    objects: list[tuple[int, object]] = []
    if text.lstrip().startswith("["):
        try:
            objects = list(enumerate(json.loads(text), start=1))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not JSON: {error}.", "Give one object a line, or one list of objects."
            ) from error
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                objects.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"Line {number} of {path} is not JSON: {error}.", "Give one object a line."
                ) from error
    keys: dict[str, None] = {}
    for number, value in objects:
        if not isinstance(value, dict):
            raise ConfigError(f"Row {number} of {path} is not a JSON object.", 'Write {"text": ..., "label": ...}.')
        keys |= dict.fromkeys(value)
    if not keys:
        raise ConfigError(f"{path} holds no fields.", 'Write {"text": ..., "label": ...}.')
    rows = [(number, [_cell(value, key) for key in keys]) for number, value in objects if isinstance(value, dict)]
    return _Table(path=path, rows=rows, keys=list(keys))


def _cell(value: dict[str, object], key: str) -> str:
    found = value.get(key)
    if found is None:
        return ""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.", "Check the name and the folder.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder.", "Give a CSV, TSV or JSON-lines file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Check the name and its permissions.") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} is not {'UTF-16' if wide else 'UTF-8'}: byte {error.start} (line {line}) cannot be read.",
            "Save it as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8.",
        ) from error
