"""What happened to the model, in words and numbers: for logs, the status and reports."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from stream_ft.logs import decision

LOGGED = (
    "n", "champion", "candidate", "difference", "lower_bound", "margin", "confidence", "worst_class_n",
    "worst_class_drop", "worst_without_n", "worst_without_difference", "size", "direction",
)  # fmt: skip
"""Numbers of a verdict or of an alarm that a log line has."""
NAMES = {"worst_class": "a class", "worst_without": "one source"}
"""Names in a verdict, and what a log line says in their stead."""


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One line of the story, for logs, status and reports."""

    kind: str
    """``promotion``, ``refusal``, ``rollback``, ``drift``, ``round``, ``failure`` or ``note``."""
    text: str
    time: float
    version: str = ""
    numbers: dict[str, object] = field(default_factory=dict)
    round_kind: str = ""
    """Of the round that brought it about; empty if none did."""
    seconds: float = 0.0
    """Wall time of that round."""
    cpu_s: float = 0.0
    """CPU time of that round."""
    steps: int = 0
    """Optimiser steps of that round."""
    sha256: str = ""
    """Of the head that was promoted, or of the candidate that was not."""
    parent: str = ""
    """Version that was active before."""

    def told(self) -> dict[str, object]:
        """For the status, which is read every few seconds: without what is empty, numbers to six digits."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        costs = {name: _short(said[name]) for name in ("seconds", "cpu_s") if name in said}
        numbers = {name: _short(value) for name, value in self.numbers.items() if value is not None}
        return said | costs | {"numbers": numbers}

    def line(self) -> str:
        """The text of the log line. A class may be the words of a user and a source a person: a log names neither."""
        text = self.text
        for key, instead in NAMES.items():
            if name := self.numbers.get(key):
                text = text.replace(repr(name), instead)
        return text

    def logged(self) -> dict[str, dict[str, object]]:
        """Fields of the log line."""
        return decision(
            self.kind,
            version=self.version,
            parent=self.parent,
            sha256=self.sha256,
            round=self.round_kind,
            seconds=round(self.seconds, 3) or None,
            cpu_s=round(self.cpu_s, 3) or None,
            steps=self.steps or None,
            **{name: self.numbers[name] for name in LOGGED if name in self.numbers},
        )


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
