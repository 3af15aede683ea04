"""What the demo reads out of the learner's happenings."""

from __future__ import annotations

from stream_ft.demo.play import verdicts
from stream_ft.wiring.happening import Happening


def told(*pairs: tuple[str, float]) -> list[Happening]:
    return [Happening(kind=kind, text="", time=time, version="v1.1.0") for kind, time in pairs]


def test_only_rounds_that_began_with_the_import_count() -> None:
    before = told(("round", 9.0), ("refusal", 11.0))
    assert verdicts(before, 10.0, 20.0) == []
    assert verdicts([*before, *told(("round", 12.0), ("promotion", 13.0))], 10.0, 20.0) == ["promotion"]


def test_a_verdict_belongs_to_its_round_whatever_happens_between() -> None:
    happened = told(("round", 12.0), ("drift", 13.0), ("note", 13.5), ("refusal", 25.0), ("refusal", 26.0))
    assert verdicts(happened, 10.0, 20.0) == ["refusal"]


def test_rounds_after_the_rollback_are_none_of_the_import() -> None:
    assert verdicts(told(("round", 21.0), ("promotion", 22.0)), 10.0, 20.0) == []
