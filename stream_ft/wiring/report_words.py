"""The report in words: what was gained, what was refused and why, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stream_ft.wiring.report_tables import candidates
from stream_ft.wiring.standing import EVEN, OURS, SOFTMAX, Standing, on_final, on_stream, points, share
from stream_ft.wiring.summary import Told

MOST_REASONS = 4
"""Refusals whose reasons are told in words; all are in the table."""
FROZEN_LABELS = 1_000
"""Labels before the frozen copy is taken, where the summary does not say when it was."""


def words(summary: Mapping[str, Any], story: Sequence[Told]) -> str:
    """Sections with a heading each, as HTML."""
    sections = [("What was gained", _gained(summary)), ("What was refused, and why", _refused(summary, story))]
    turned = [*_drifts(summary), *_rollbacks(story)]
    if turned:
        sections.append(("What went wrong, and what was done", turned))
    return "\n".join(f"<div><h2>{title}</h2>{''.join(parts)}</div>" for title, parts in sections)


def paragraph(text: str) -> str:
    """Text as HTML."""
    return f"<p>{escape(text)}</p>"


def times(count: int, one: str, many: str | None = None) -> str:
    """``1 answer``, ``2,000 answers``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def frozen_when(summary: Mapping[str, Any]) -> str:
    """When the frozen copy was taken: ``after the first 1,019 messages``."""
    after = summary.get("frozen_after")
    return f"after its first {FROZEN_LABELS:,} labels" if after is None else f"after the first {after:,} messages"


def _gained(summary: Mapping[str, Any]) -> list[str]:
    stream, final, events = on_stream(summary), on_final(summary), summary.get("events") or 0
    if stream.ours is None:
        return [paragraph("Nothing yet: there were no events.")]
    parts = [
        paragraph(
            f"Of {times(events, 'message')} in {times(summary.get('classes') or 0, 'class', 'classes')}, "
            f"the live model answered {share(stream.ours)} right, each before it had learned from it."
            + _compare(stream, frozen_when(summary), "over the stream")
        )
    ]
    if final.ours is not None:
        parts.append(
            paragraph(
                f"On the final test, which it never saw, the last version answers {share(final.ours)} right."
                + _compare(final, frozen_when(summary), "there")
            )
        )
    promotions, encoder = summary.get("promotions") or 0, _encoder_rounds(summary)
    if promotions:
        trained = f", {encoder} of them with a newly trained encoder" if encoder else ", each with a refitted head"
        parts.append(paragraph(f"{times(promotions, 'new version')} went live{trained}."))
    else:
        parts.append(paragraph("No new version went live."))
    return parts


def _compare(standing: Standing, when: str, where: str) -> str:
    """Both others beside stream_ft, and who is ahead of whom."""
    ours, text = standing.ours or 0.0, ""
    if standing.softmax is not None:
        text += f" A {SOFTMAX} on the pretrained embeddings reaches {share(standing.softmax)}: "
        text += _ahead(ours - standing.softmax, where)
    if standing.frozen is not None:
        text += f" The same model, frozen {when}, reaches {share(standing.frozen)}: "
        difference = ours - standing.frozen
        if abs(difference) < EVEN:
            text += f"learning on made no difference {where}."
        else:
            text += f"learning on {'was worth' if difference > 0 else 'cost'} {points(difference)} {where}."
    return text


def _ahead(difference: float, where: str) -> str:
    if abs(difference) < EVEN:
        return f"{OURS} is level with it {where}."
    if difference > 0:
        return f"{OURS} is {points(difference)} ahead of it {where}."
    return f"{OURS} loses to it by {points(difference)} {where}."


def _encoder_rounds(summary: Mapping[str, Any]) -> int:
    return sum(
        row.get("verdict") == "accepted" and row.get("kind") not in ("", None, "head", "genesis")
        for row in summary.get("versions") or []
    )


def _refused(summary: Mapping[str, Any], story: Sequence[Told]) -> list[str]:
    refused = [(event, row) for event, row in candidates(summary, story) if row.get("verdict") in ("refused", "failed")]
    count = max(len(refused), summary.get("refusals") or 0)
    if not count:
        return [paragraph("No candidate was refused.")]
    said = (
        f"{times(count, 'candidate')} did not go live, and no user saw an answer of {'it' if count == 1 else 'them'}."
    )
    grouped: dict[str, list[tuple[int | None, Mapping[str, Any]]]] = {}
    for event, row in refused:
        if row.get("reason"):
            grouped.setdefault(str(row["reason"]), []).append((event, row))
    if not grouped:
        return [paragraph(said)]
    worst = sorted(grouped, key=lambda reason: min(_furthest(row) for _, row in grouped[reason]))[:MOST_REASONS]
    why = "The reason:" if len(grouped) == 1 else "The reasons:"
    if len(worst) < len(grouped):
        why = f"The {len(worst)} that were furthest from passing (the others are in the table of versions):"
    rows = [f"<li>{escape(_reason(reason, rows))}</li>" for reason, rows in grouped.items() if reason in worst]
    return [paragraph(f"{said} {why}"), "<ul>" + "".join(rows) + "</ul>"]


def _furthest(row: Mapping[str, Any]) -> float:
    """The worst of the gate's numbers: overall, without any one source, and what a class lost beyond its floor.

    Without a lower bound nothing could even be compared, and that is worst.
    """
    numbers = row.get("numbers") or {}
    bound = _number(numbers, "lower_bound", float("-inf"))
    of_class = _number(numbers, "class_floor", 0.0) - _number(numbers, "worst_class_drop", 0.0)
    return min(bound, _number(numbers, "worst_without_difference", bound), min(of_class, 0.0) or bound)


def _number(numbers: Mapping[str, Any], name: str, default: float) -> float:
    value = numbers.get(name)
    return float(value) if isinstance(value, int | float) else default


def _reason(reason: str, rows: Sequence[tuple[int | None, Mapping[str, Any]]]) -> str:
    """``Event 517, head round: Recall of ...``."""
    kind = str(rows[0][1].get("kind") or "")
    of = f"{kind} round" if kind else ""
    text = reason.removeprefix(f"A {of}: ") if of else reason
    events = [f"{event:,}" for event, _ in rows if event is not None]
    at = f"{'Event' if len(events) == 1 else 'Events'} {', '.join(events)}" if events else ""
    start = ", ".join(part for part in (at, of) if part)
    start = f"{start[0].upper()}{start[1:]}: " if start else ""
    return f"{start}{text}" + (f" ({len(rows):,} times)" if len(rows) > 1 else "")


def _drifts(summary: Mapping[str, Any]) -> list[str]:
    alarms = summary.get("drift_alarms") or []
    if not alarms:
        return []
    events = ", ".join(f"{alarm['event']:,}" for alarm in alarms[:8]) + (" and later" if len(alarms) > 8 else "")
    at = "at event" if len(alarms) == 1 else "at events"
    return [paragraph(f"Drift: {times(len(alarms), 'alarm')} that the live version's errors had risen, {at} {events}.")]


def _rollbacks(story: Sequence[Told]) -> list[str]:
    return [
        paragraph(f"Rolled back at event {told.event:,}: {told.happening.text}")
        for told in story
        if told.happening.kind == "rollback"
    ]
