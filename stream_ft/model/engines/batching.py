"""Which rows of a call share a forward: by length, so that little of it is padding. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

BATCH_TOKENS = 2_048
"""Most tokens, padding included, in one forward: bounds memory, and lengths in a batch stay alike."""

SHARES = (1.25, 1.1, 1.0, 0.8, 0.6, 0.5)
"""Of what each lane would get in a turn: sizes of groups that are tried."""

EVEN = 1e-7
"""Of groups that cost the same those of about the same size are taken: lanes share them out better."""

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


def cheapest(lengths: Sequence[int], tokens: int, each: int) -> list[list[int]]:
    """The groups that cost least together: padding costs, and so does each forward.

    Rows in the order of their lengths are cut where the sum is least, by dynamic programming; in time proportional to
    the number of rows times that of those in the largest group.

    Args:
        lengths: of the rows, in tokens.
        tokens: most in one group, padding included (or one longer row alone).
        each: cost of a forward beside its tokens, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    least = [0.0] * (len(order) + 1)
    """Cost of the first rows, however many."""
    begins = [0] * (len(order) + 1)
    """Where the last group of those begins."""
    for end in range(1, len(order) + 1):
        longest = max(1, lengths[order[end - 1]])
        least[end] = math.inf
        for begin in range(end - 1, max(-1, end - 1 - max(1, tokens // longest)), -1):
            padded = (end - begin) * longest
            cost = least[begin] + each + padded + EVEN * padded * padded
            if cost < least[end]:
                begins[end], least[end] = begin, cost
    groups = []
    end = len(order)
    while end:
        groups.append(order[begins[end] : end])
        end = begins[end]
    return groups


def shared(lengths: Sequence[int], lanes: int, *, tokens: int, least: int, each: int) -> list[list[int]]:
    """Such groups for lanes that work on them at once, so that all end as soon as they can: the largest come first.

    Sought among cuts of different sizes: small ones are shared out evenly, large ones cost less.

    Args:
        lengths: of the rows, in tokens.
        lanes: groups that are worked on at once.
        tokens: most in one group, padding included.
        least: fewer are not worth a group of their own.
        each: cost of a forward beside its tokens, in tokens.
    """
    total = sum(lengths)
    turns = max(1, math.ceil(total / (lanes * tokens)))
    even = total / (lanes * turns)
    sizes = {min(tokens, max(least, math.ceil(even * share))) for share in SHARES} if lanes > 1 else {tokens}
    found: list[list[int]] = []
    soonest = math.inf
    for size in sorted(sizes, reverse=True):
        groups = sorted(cheapest(lengths, size, each), key=lambda rows: len(rows) * lengths[rows[-1]], reverse=True)
        loads = [0] * lanes
        for rows in groups:  # each lane takes the next one when it is free
            loads[loads.index(min(loads))] += each + len(rows) * lengths[rows[-1]]
        if max(loads) < soonest:
            found, soonest = groups, max(loads)
    return found
