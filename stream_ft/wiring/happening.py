"""What happened to the model, in words and numbers: for logs, the status and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_ft.logs import decision

LOGGED = (
    "n", "champion", "candidate", "difference", "lower_bound", "margin", "confidence", "worst_class",
    "worst_class_drop", "size", "direction",
)  # fmt: skip
"""Numbers of a verdict or of an alarm that a log line has."""


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
