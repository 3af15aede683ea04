"""Which rows of a call share a forward: by length, so that little of it is padding. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

BATCH_TOKENS = 2_048
"""Most tokens, padding included, in one forward: bounds memory, and lengths in a batch stay alike."""

TOKENIZED_AT_ONCE = 512
"""Texts in one call of a tokenizer: it answers with far more than ids, and a round encodes all its texts at once."""


def batches(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Row numbers by length, in groups of at most ``tokens`` tokens after padding (or one longer row alone)."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    group: list[int] = []
    for row in order:
        if group and (len(group) + 1) * max(1, lengths[row]) > tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
