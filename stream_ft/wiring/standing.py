"""Three learners side by side: the frozen copy, a plain online softmax, and stream_ft; whoever is ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OURS = "stream_ft"
SOFTMAX = "plain online softmax"
FROZEN = "frozen copy"
EVEN = 0.0005
"""Closer than this is no difference: both would print as the same number."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the three did on the same messages, as fractions; ``None`` where one was not there."""

    where: str
    """In words: ``over the stream`` or ``on the final test``."""
    ours: float | None
    softmax: float | None
    frozen: float | None

    @property
    def whole(self) -> bool:
        """All three were there."""
        return None not in (self.ours, self.softmax, self.frozen)

    def numbers(self) -> str:
        """The three in the order of the demo's last line."""
        return f"frozen {share(self.frozen)}, {SOFTMAX} {share(self.softmax)}, {OURS} {share(self.ours)}"

    def lost(self) -> list[tuple[str, float]]:
        """To whom stream_ft lost, and by how much."""
        ours = self.ours
        if ours is None:
            return []
        others = ((SOFTMAX, self.softmax), (FROZEN, self.frozen))
        return [(name, value - ours) for name, value in others if value is not None and value - ours >= EVEN]


def on_stream(summary: Mapping[str, Any]) -> Standing:
    """Over the whole stream, each message predicted before it was learned."""
    return Standing(
        where="over the stream",
        ours=summary.get("prequential_accuracy"),
        softmax=summary.get("online_softmax_accuracy"),
        frozen=summary.get("frozen_accuracy"),
    )


def on_final(summary: Mapping[str, Any]) -> Standing:
    """On messages that nobody learned from."""
    return Standing(
        where="on the final test",
        ours=summary.get("final_test_accuracy"),
        softmax=summary.get("online_softmax_final_test_accuracy"),
        frozen=summary.get("frozen_final_test_accuracy"),
    )


def headline(summary: Mapping[str, Any]) -> str:
    """The last line of the demo: of the final test where all three took it, else of the stream."""
    final = on_final(summary)
    cost = summary.get("cpu_ms_per_event")
    at = "" if cost is None else f", at {cost:.0f} ms per event"
    return f"On this data: {(final if final.whole else on_stream(summary)).numbers()}{at}."


def before_headline(summary: Mapping[str, Any]) -> list[str]:
    """What must be read before the headline: the same three over the stream, and where stream_ft lost.

    Without the numbers of the stream where the headline has them already, or where there are none.
    """
    stream = on_stream(summary)
    lines = []
    if on_final(summary).whole and stream.ours is not None:
        lines.append(f"Over the stream, each message predicted before it was learned: {stream.numbers()}.")
    return lines + [text for text in (losses(stream), losses(on_final(summary))) if text]


def losses(standing: Standing) -> str:
    """In words, where stream_ft lost; empty if it did not."""
    lost = standing.lost()
    if not lost:
        return ""
    to = " and ".join(f"to the {name} by {points(by)}" for name, by in lost)
    return f"{OURS} loses {to} {standing.where}."


def share(value: float | None) -> str:
    """A fraction for people."""
    return "unknown" if value is None else f"{value:.1%}"


def points(value: float) -> str:
    """A difference of fractions, without its sign."""
    return f"{abs(100 * value):.1f} {'point' if f'{abs(100 * value):.1f}' == '1.0' else 'points'}"
