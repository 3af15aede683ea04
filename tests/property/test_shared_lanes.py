"""What waits is shared out among lanes: nothing is lost, little is padded, and all end at about the same time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_ft.model.engines.batching import batches, shared

LENGTHS = st.lists(st.integers(0, 128), max_size=80)
TOKENS, LEAST = 128, 16


def padded(rows: list[int], lengths: list[int]) -> int:
    return len(rows) * max(lengths[row] for row in rows)


@given(LENGTHS, st.integers(2, 8))
def test_every_row_is_in_one_group_and_none_is_too_large(lengths: list[int], lanes: int) -> None:
    groups = shared(lengths, lanes, tokens=TOKENS, least=LEAST)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    assert all(padded(rows, lengths) <= TOKENS for rows in groups if lengths[rows[0]])
    sizes = [padded(rows, lengths) for rows in groups]
    assert sizes == sorted(sizes, reverse=True), "the largest first: what comes last is what one lane waits for"


@given(st.integers(1, 60), st.integers(4, 30), st.integers(2, 4))
def test_texts_of_one_length_are_shared_evenly(count: int, length: int, lanes: int) -> None:
    groups = shared([length] * count, lanes, tokens=TOKENS, least=LEAST)
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
    assert [len(rows) for rows in shared([16] * 18, 2, tokens=TOKENS, least=LEAST)] == [5, 5, 5, 3]
