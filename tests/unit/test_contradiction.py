from __future__ import annotations

import numpy as np
import pytest

from stream_ft.replay.contradiction import Contradicted, Neighbourhood, Placed


def placed(id: int, label: str, *values: float, time: float | None = None, trust: int = 2) -> Placed:
    embedding = np.zeros(4, "<f2")
    embedding[: len(values)] = values
    return Placed(
        id=id, label=label, trust=trust, time=float(id) if time is None else time, embedding=embedding.tobytes()
    )


def settled(*rows: Placed, contradictions: int = 2) -> list[Contradicted]:
    space = Neighbourhood(contradictions=contradictions, similarity=0.8)
    for row in rows:
        space.add(row)
    return space.settle()


def test_newer_neighbours_contradict_and_the_newest_is_named() -> None:
    assert settled(placed(1, "a", 1), placed(2, "b", 1), placed(3, "b", 1)) == [Contradicted(id=1, by=3)]


def test_older_neighbours_do_not() -> None:
    assert settled(placed(1, "b", 1), placed(2, "b", 1), placed(3, "a", 1)) == []


def test_order_is_by_time_and_then_id() -> None:
    rows = [placed(1, "a", 1, time=9), placed(2, "b", 1, time=5), placed(3, "b", 1, time=6)]
    assert settled(*rows) == []
    late = [placed(n, label, 1, time=1) for n, label in enumerate("abb", 1)]
    assert settled(*late) == [Contradicted(id=1, by=3)]


def test_they_must_agree() -> None:
    assert settled(placed(1, "a", 1), placed(2, "b", 1), placed(3, "c", 1)) == []


def test_they_must_be_near() -> None:
    assert settled(placed(1, "a", 1, 0), placed(2, "b", 0, 1), placed(3, "b", 1, 1)) == []


def test_length_does_not_matter() -> None:
    assert settled(placed(1, "a", 100), placed(2, "b", 0.1), placed(3, "b", 7)) == [Contradicted(id=1, by=3)]


def test_a_tie_with_supporters_keeps_the_example() -> None:
    rows = [placed(1, "a", 1, 0), placed(2, "a", 0.87, -0.5), placed(3, "a", 0.87, -0.5)]
    rivals = [placed(4, "b", 0.87, 0.5), placed(5, "b", 0.87, 0.5), placed(6, "b", 0.87, 0.5)]
    assert settled(*rows, *rivals[:2]) == []
    assert settled(*rows, *rivals) == [Contradicted(id=1, by=6)]


def test_less_trusted_neighbours_have_no_vote() -> None:
    assert settled(placed(1, "a", 1), placed(2, "b", 1, trust=1), placed(3, "b", 1, trust=1)) == []
    users = [placed(n, label, 1, trust=1) for n, label in enumerate("abb", 1)]
    assert [fallen.id for fallen in settled(*users)] == [1]


def test_who_left_no_longer_votes() -> None:
    space = Neighbourhood(contradictions=2, similarity=0.8)
    space.add(placed(1, "a", 1))
    space.add(placed(2, "b", 1))
    assert space.settle() == []
    space.remove(2)
    space.add(placed(3, "b", 1))
    assert space.settle() == []
    space.add(placed(4, "b", 1))
    assert space.settle() == [Contradicted(id=1, by=4)]


def test_a_supporter_that_leaves_tips_the_balance() -> None:
    space = Neighbourhood(contradictions=2, similarity=0.8)
    for row in (placed(1, "a", 1, 0), placed(2, "a", 0.87, -0.5), placed(3, "a", 0.87, -0.5)):
        space.add(row)
    for row in (placed(4, "b", 0.87, 0.5), placed(5, "b", 0.87, 0.5)):
        space.add(row)
    assert space.settle() == []
    space.remove(2)
    assert space.settle() == [Contradicted(id=1, by=5)]


def test_a_late_one_meets_the_newer_that_are_there() -> None:
    space = Neighbourhood(contradictions=2, similarity=0.8)
    space.add(placed(1, "b", 1, time=10))
    space.add(placed(2, "b", 1, time=11))
    assert space.settle() == []
    space.add(placed(3, "a", 1, time=5))
    assert space.settle() == [Contradicted(id=3, by=2)]


def test_an_example_that_changed_its_label_votes_anew() -> None:
    space = Neighbourhood(contradictions=1, similarity=0.8)
    space.add(placed(1, "a", 1))
    space.add(placed(2, "a", 1))
    assert space.settle() == []
    space.add(placed(2, "b", 1))
    assert space.settle() == [Contradicted(id=1, by=2)]
    assert len(space) == 2


@pytest.mark.parametrize("values", [(0.0,), (np.inf,), (np.nan,)])
def test_vectors_without_a_direction_have_no_neighbours(values: tuple[float, ...]) -> None:
    assert settled(placed(1, "a", *values), placed(2, "b", *values), contradictions=1) == []


def test_a_vector_of_another_width_is_left_out() -> None:
    space = Neighbourhood(contradictions=1, similarity=0.8)
    space.add(placed(1, "a", 1))
    space.settle()
    space.add(Placed(id=2, label="b", trust=2, time=2.0, embedding=b"\x00\x3c"))
    assert space.settle() == []
    assert len(space) == 1


@pytest.mark.parametrize("seed", range(3))
def test_counting_as_they_come_and_go_agrees_with_counting_all(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    space = Neighbourhood(contradictions=3, similarity=0.8)
    alive: dict[int, Placed] = {}
    for step in range(400):
        if alive and rng.random() < 0.3:
            gone = int(rng.choice(list(alive)))
            del alive[gone]
            space.remove(gone)
        new = placed(step, str(rng.integers(4)), *rng.normal(size=4), time=float(rng.integers(100)))
        alive[step] = new
        space.add(new)
        if step % 7 == 0:
            assert {fallen.id for fallen in space.settle()} <= _fallen(list(alive.values()))
    assert {fallen.id for fallen in space.settle()} <= _fallen(list(alive.values()))
    slots = space._slots
    for id, expected in zip(alive, _all_votes(list(alive.values())), strict=True):
        kept = {label: int(space._votes[slots[id], index]) for label, index in space._labels.items()}
        assert {label: n for label, n in kept.items() if n} == expected


def _all_votes(rows: list[Placed]) -> list[dict[str, int]]:
    """Counted anew, pair by pair."""
    vectors = np.array([np.frombuffer(row.embedding, "<f2").astype(np.float32) for row in rows])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    close = units @ units.T >= 0.8
    found: list[dict[str, int]] = []
    for here, row in enumerate(rows):
        votes: dict[str, int] = {}
        for there in np.flatnonzero(close[here]):
            other = rows[there]
            if (other.time, other.id) > (row.time, row.id):
                votes[other.label] = votes.get(other.label, 0) + 1
        found.append(votes)
    return found


def _fallen(rows: list[Placed]) -> set[int]:
    fallen = set()
    for row, votes in zip(rows, _all_votes(rows), strict=True):
        own = votes.pop(row.label, 0)
        if votes and max(votes.values()) >= 3 and max(votes.values()) > own:
            fallen.add(row.id)
    return fallen
