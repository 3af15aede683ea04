"""The report's tables. On a narrow screen each row becomes a card, and long ones are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stream_ft.wiring.standing import share
from stream_ft.wiring.summary import Told

MOST_ROWS = 400
"""Rows of a table; of longer ones the newest are shown, and that is said."""
OPEN_ROWS = 8
"""Candidates that are shown without a click."""
VERDICTS = {"accepted": ("promotion",), "refused": ("refusal",), "failed": ("failure",), "rollback": ("rollback",)}

Column = tuple[str, str]
"""Name, and class: ``number``, ``reason``, ``head`` (first line of a card) or nothing."""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already. The roles are said, for a card of a narrow screen is laid out as no table is."""
    head = "".join(f'<th scope="col" role="columnheader" class="{kind}">{escape(name)}</th>' for name, kind in columns)
    body = "".join(
        '<tr role="row">'
        + "".join(
            f'<td role="cell" class="{kind}" data-label="{escape(name)}">{cell}</td>'
            for (name, kind), cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table role="table">'
        f'<caption>{escape(caption)}</caption><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def folded(title: str, inner: str) -> str:
    """``inner`` behind a line to click on."""
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def phases(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Accuracy of each phase; empty where there is one alone."""
    rows = []
    for part, key in (("Over the stream", "prequential_by_phase"), ("Final test", "final_test_by_phase")):
        found = summary.get(key) or []
        if len(found) > 1:
            rows += [
                [part, escape(phase_title(str(row["phase"]), names)), f"{row['events']:,}", share(row["accuracy"])]
                for row in found
            ]
    columns = (("Part", "head"), ("Phase", "reason"), ("Events", "number"), ("Accuracy", "number"))
    return table("Accuracy of stream_ft by phase.", columns, rows) if rows else ""


def phase_title(phase: str, names: Mapping[str, str]) -> str:
    """A phase in words where there are some."""
    return f"{phase}: {names[phase]}" if phase in names else phase


def candidates(summary: Mapping[str, Any], story: Sequence[Told]) -> list[tuple[int | None, Mapping[str, Any]]]:
    """Event and row of each version and candidate; the events are known if the story is that of the same run."""
    rows = summary.get("versions") or []
    judged = [
        told
        for told in story
        if told.happening.kind in ("promotion", "rollback")
        or (told.happening.kind in ("refusal", "failure") and told.happening.round_kind)
    ]
    same = len(judged) == len(rows) and all(
        told.happening.kind in VERDICTS.get(str(row.get("verdict")), ()) for told, row in zip(judged, rows, strict=True)
    )
    return [(told.event, row) for told, row in zip(judged, rows, strict=True)] if same else [(None, r) for r in rows]


def versions(summary: Mapping[str, Any], story: Sequence[Told]) -> str:
    """Each candidate, newest first."""
    found = candidates(summary, story)
    if not found:
        return "<p>No candidate was judged.</p>"
    rows = [_version(event, row) for event, row in reversed(found)][:MOST_ROWS]
    columns = (
        ("Version", "head"),
        ("Verdict", "head"),
        ("Round", "head"),
        ("Event", "number"),
        ("Why", "reason"),
        ("Champion", "number"),
        ("Candidate", "number"),
        ("Lower bound", "number"),
        ("Examples", "number"),
    )
    caption = (
        "Each candidate and the gate's verdict, newest first. Lower bound: of candidate minus champion, one-sided."
    )
    if len(found) > MOST_ROWS:
        caption += f" The newest {MOST_ROWS:,} of {len(found):,}."
    first = len(rows) if len(rows) <= OPEN_ROWS + 2 else OPEN_ROWS
    parts = [table(caption, columns, rows[:first])]
    if rows[first:]:
        rest = table("The candidates before them, newest first.", columns, rows[first:])
        parts.append(folded(f"Show the {len(rows) - first:,} before them", rest))
    return "\n".join(parts)


def _version(event: int | None, row: Mapping[str, Any]) -> list[str]:
    numbers = row.get("numbers") or {}
    verdict = str(row.get("verdict") or "")

    def number(name: str, sign: str = "") -> str:
        value = numbers.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return ""
        return f"{value:{sign}.3f}" if numbers.get("scale") == "loss" else f"{value:{sign}.1%}"

    return [
        escape(str(row.get("name") or str(row.get("sha256") or "")[:8])),
        f'<span class="verdict-{escape(verdict)}">{escape(verdict)}</span>',
        escape(str(row.get("kind") or "")),
        "" if event is None else f"{event:,}",
        escape(str(numbers.get("reason") or row.get("reason") or "")),
        number("champion"),
        number("candidate"),
        number("lower_bound", "+"),
        escape(str(numbers.get("n", ""))),
    ]


def story(told: Sequence[Told], said: Sequence[tuple[int, str]]) -> str:
    """What happened, in order, with what the demo did; beginnings of rounds are left out: the verdict follows."""
    rows = [(event, "demo", "", text) for event, text in said]
    rows += [
        (row.event, row.happening.kind, row.happening.round_kind, row.happening.text)
        for row in told
        if row.happening.kind != "round"
    ]
    if not rows:
        return ""
    rows.sort(key=lambda row: row[0])
    shown = [[f"{event:,}", escape(kind), escape(of), escape(text)] for event, kind, of, text in rows[-MOST_ROWS:]]
    caption = "Verdicts, alarms, commands and what the demo did."
    if len(rows) > MOST_ROWS:
        caption += f" The newest {MOST_ROWS:,} of {len(rows):,}."
    columns = (("Event", "head"), ("What", "head"), ("Round", "head"), ("In words", "reason"))
    inner = table(caption, columns, shown)
    if len(shown) > OPEN_ROWS + 2:
        inner = folded(f"Show all {len(shown):,}", inner)
    return f"<h2>What happened, in order</h2>{inner}"
