"""What waits is shared out among lanes: nothing is lost, little is padded, and all end at about the same time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from stream_ft.model.engines.batching import batches, cheapest, shared

LENGTHS = st.lists(st.integers(0, 128), max_size=80)
TOKENS, LEAST, EACH = 128, 16, 13


def padded(rows: list[int], lengths: list[int]) -> int:
    return len(rows) * max(lengths[row] for row in rows)


def cost(groups: list[list[int]], lengths: list[int]) -> int:
    """Of all of them, one after the other; a row without tokens stands as one."""
    return sum(EACH + len(rows) * max(1, *(lengths[row] for row in rows)) for rows in groups)


def cuts(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to cut a row of rows."""
    for where in itertools.product((False, True), repeat=max(0, len(rows) - 1)):
        groups = [rows[:1]] if rows else []
        for row, here in zip(rows[1:], where, strict=True):
            if here:
                groups.append([row])
            else:
                groups[-1] = [*groups[-1], row]
        yield groups


@given(st.lists(st.integers(0, 128), max_size=9))
def test_no_other_cut_costs_less(lengths: list[int]) -> None:
    found = cheapest(lengths, TOKENS, EACH)
    rows = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    fitting = [g for g in cuts(rows) if all(len(each) == 1 or padded(each, lengths) <= TOKENS for each in g)]
    assert cost(found, lengths) == min(cost(groups, lengths) for groups in fitting)
    assert sorted(row for group in found for row in group) == list(range(len(lengths)))


@given(LENGTHS)
def test_one_lane_gets_what_costs_least(lengths: list[int]) -> None:
    groups = shared(lengths, 1, tokens=TOKENS, least=LEAST, each=EACH)
    assert cost(groups, lengths) == cost(cheapest(lengths, TOKENS, EACH), lengths)
    assert cost(groups, lengths) <= cost(list(batches(lengths, TOKENS)), lengths), "than to fill one after the other"


def test_a_long_text_is_not_what_short_ones_are_padded_to() -> None:
    assert cheapest([5, 5, 5, 60, 5], TOKENS, EACH) == [[3], [0, 1, 2, 4]]
    assert cheapest([14, 16, 15], TOKENS, EACH) == [[0, 2, 1]], "nor is every length a forward of its own"


@given(LENGTHS, st.integers(2, 8))
def test_every_row_is_in_one_group_and_none_is_too_large(lengths: list[int], lanes: int) -> None:
    groups = shared(lengths, lanes, tokens=TOKENS, least=LEAST, each=EACH)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    assert all(padded(rows, lengths) <= TOKENS for rows in groups if lengths[rows[0]])
    sizes = [padded(rows, lengths) for rows in groups]
    assert sizes == sorted(sizes, reverse=True), "the largest first: what comes last is what one lane waits for"


@given(st.integers(1, 60), st.integers(4, 30), st.integers(2, 4))
def test_texts_of_one_length_are_shared_evenly(count: int, length: int, lanes: int) -> None:
    groups = shared([length] * count, lanes, tokens=TOKENS, least=LEAST, each=EACH)
    loads = [0] * lanes
    for rows in groups:  # each lane takes the next one when it is free
        loads[loads.index(min(loads))] += len(rows)
    largest = max(len(rows) for rows in groups)
    assert max(loads) - min(loads) <= largest
    if count * length <= lanes * TOKENS:
        least = -(-LEAST // length)  # texts that are worth a group of their own
        assert max(loads) <= max(least, count / lanes + 1 + count / 8)


def test_a_pile_that_is_just_too_much_for_a_turn_leaves_no_lane_waiting() -> None:
    plain = [len(rows) for rows in batches([16] * 18, TOKENS)]
    assert plain == [8, 8, 2], "one lane would do 8, the other 10, one after the other"
    assert [len(rows) for rows in shared([16] * 18, 2, tokens=TOKENS, least=LEAST, each=EACH)] == [5, 5, 4, 4]
