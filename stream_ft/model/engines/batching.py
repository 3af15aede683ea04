"""Which rows of a call share a forward: by length, so that little of it is padding. Imports no torch."""

from __future__ import annotations

import math
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


def shared(lengths: Sequence[int], lanes: int, *, tokens: int, least: int) -> list[list[int]]:
    """Such groups for lanes that work on them at once, so that all end at about the same time: the largest come first.

    Args:
        lengths: of the rows, in tokens.
        lanes: groups that are worked on at once.
        tokens: most in one group, padding included.
        least: fewer are not worth a group of their own.
    """
    total = sum(lengths)
    turns = max(1, math.ceil(total / (lanes * tokens)))
    most = min(tokens, max(least, math.ceil(total / (lanes * turns))))
    groups = list(batches(lengths, most))
    while most < tokens and len(groups) > lanes * turns:  # what padding adds would be a group more, for one lane alone
        most = min(tokens, most + max(1, most // 16))
        groups = list(batches(lengths, most))
    return sorted(groups, key=lambda rows: len(rows) * lengths[rows[-1]], reverse=True)
