"""Section `fast` of the settings."""

from __future__ import annotations

from pydantic import Field, field_validator

from stream_ft.config_section import Section


class FastSettings(Section):
    """The fast tier: small heads over the embedding that learn from every event."""

    enabled: bool = True
    """Learn from every event as it comes, beside the rounds."""
    experts: str = "softmax,means,concepts"
    """Learners that are mixed, with commas between them."""
    every_s: float = Field(default=1.0, ge=0)
    """A new head is published at most this often, in seconds."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Examples between two states that a rollback can go back to; there is one a minute in any case."""
    head_every: int = Field(default=2_500, ge=1)
    """New or revised examples between two rounds of the head, in place of a smaller `schedule.min_new`; at first fewer,
    as many as half of all."""

    def names(self) -> list[str]:
        """Of the learners."""
        return [name.strip() for name in self.experts.split(",")]

    @field_validator("experts")
    @classmethod
    def _experts_are_named(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if not all(name.isidentifier() for name in names) or len(set(names)) < len(names):
            raise ValueError("must be names of learners, each once, with commas between them")
        return value
