"""Records that Faust leaves out are asked for again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_ft.connectors.faust_order import Order

PLACE = ("t", 0)


def order(start: int = 0) -> Order:
    made = Order()
    made.begin(PLACE, start)
    return made


def test_one_after_the_other() -> None:
    checked = order(5)
    assert [checked.check(PLACE, offset) for offset in (5, 6, 7)] == ["take"] * 3
    assert checked.next(PLACE) == 8


def test_what_comes_again_is_taken_again() -> None:
    checked = order(5)
    assert [checked.check(PLACE, offset) for offset in (5, 6, 5, 6, 7)] == ["take"] * 5


def test_what_was_left_out_is_sought_and_what_was_on_its_way_waits() -> None:
    checked = order()
    assert [checked.check(PLACE, offset) for offset in (1, 2, 3)] == ["seek", "wait", "wait"]
    assert checked.next(PLACE) == 0
    assert [checked.check(PLACE, offset) for offset in (0, 1, 2, 3, 4)] == ["take"] * 5


def test_a_gap_that_is_still_there_is_one_of_the_log() -> None:
    checked = order()
    assert checked.check(PLACE, 7) == "seek"
    assert [checked.check(PLACE, offset) for offset in (8, 7, 8)] == ["wait", "take", "take"]
    assert checked.check(PLACE, 12) == "seek"


def test_partitions_are_apart_and_can_be_forgotten() -> None:
    checked = order()
    other = ("t", 1)
    assert not checked.knows(other)
    checked.begin(other, 3)
    assert (checked.check(PLACE, 0), checked.check(other, 3)) == ("take", "take")
    checked.forget(PLACE)
    assert (checked.knows(PLACE), checked.knows(other)) == (False, True)


@given(st.sets(st.integers(0, 40), min_size=1), st.data())
def test_every_record_of_the_log_is_taken_whatever_is_left_out_on_the_way(there: set[int], data: st.DataObject) -> None:
    log = sorted(there)
    checked, taken, position = order(), [], 0
    lost: set[int] = set()
    for _ in range(2_000):
        left = [offset for offset in log if offset >= position]
        if not left:
            break
        offset = left[0]
        position = offset + 1
        if offset not in lost and len(left) > 1 and data.draw(st.integers(0, 9)) == 0:
            lost.add(offset)
            continue
        verdict = checked.check(PLACE, offset)
        if verdict == "take":
            taken.append(offset)
        elif verdict == "seek":
            position = checked.next(PLACE)
    missing = set(log) - set(taken)
    # What is lost at the very end shows only with what follows it.
    assert not {offset for offset in missing if taken and offset < max(taken)}
