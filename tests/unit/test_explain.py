"""The audit: a file of control messages, folded again, one answer a line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.release.explain import explain

A, B = "a" * 64, "b" * 64
KEYS = [
    "offset",
    "id",
    "accepted",
    "reason",
    "epoch",
    "leader",
    "base",
    "start_head",
    "version",
    "pinned",
    "paused",
    "denied",
    "trial",
]
STAMP = "2026-01-31T12:00:00Z"


def line(kind: str, number: int, by: str = "operator/anna", **fields: Any) -> str:
    header = {"type": kind, "id": f"m{number}", "issued_by": by, "issued_at": STAMP, "appended_at": STAMP}
    return json.dumps(header | fields)


STORY = [
    line("genesis", 0, log_id="log", base=A, start_head=A),
    line("lead", 1, "learner/one", expected_epoch=0),
    line("promote", 2, "learner/one", base=B, start_head=B, parent=A, expected_epoch=1),
    line("pin", 3),
    line("rollback", 4, to_epoch=0, reason="worse"),
    line("rollback", 4, to_epoch=0, reason="worse"),
]


def test_each_message_gets_one_answer_with_the_state_after_it() -> None:
    rows = list(explain(STORY))
    assert [list(row) for row in rows] == [KEYS] * 6
    assert [row["accepted"] for row in rows] == [True, True, True, True, True, False]
    assert [row["version"] for row in rows] == ["v0.0.0", "v0.1.0", "v2.2.0", "v2.2.0", "v0.3.0", "v0.3.0"]
    assert rows[4] == {
        "offset": 4,
        "id": "m4",
        "accepted": True,
        "reason": "",
        "epoch": 3,
        "leader": "learner/one",
        "base": A,
        "start_head": A,
        "version": "v0.3.0",
        "pinned": True,
        "paused": False,
        "denied": [B],
        "trial": None,
    }
    assert rows[5]["id"] == "m4"
    assert "seen before" in rows[5]["reason"]
    assert json.loads(json.dumps(rows)) == rows


def test_a_trial_is_told_while_it_runs() -> None:
    c = "c" * 64
    rows = list(
        explain(
            [
                STORY[0],
                line("shadow", 1, base=B, start_head=c, share=1.0),
                line("canary", 2, base=B, start_head=c, share=0.1),
                line("canary", 3, "learner/two", base=A, start_head=A, share=0.5),
                line("pin", 4),
                line("canary", 5, base=B, start_head=c, share=0),
            ]
        )
    )
    assert [row["accepted"] for row in rows] == [True, True, True, False, True, True]
    trial = {"kind": "shadow", "version": "trial-1", "base": B, "start_head": c, "share": 1.0}
    canary = trial | {"kind": "canary", "share": 0.1}
    assert [row["trial"] for row in rows] == [None, trial, canary, canary, canary, None]


def test_before_the_genesis_nothing_is_known() -> None:
    (row,) = explain([line("pin", 0)])
    assert not row["accepted"]
    assert [row[key] for key in ("epoch", "leader", "base", "start_head", "version")] == [None] * 5
    assert (row["pinned"], row["paused"], row["denied"]) == (False, False, [])


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "{",
        "[]",
        "5",
        line("dance", 1),
        line("pin", 1, appended_at=None),
        line("pin", 1, appended_at=5),
        line("pin", 1, appended_at="2026-01-31T12:00:00"),
        line("pin", 1, appended_at="yesterday"),
        line("lead", 1, "learner/one", expected_epoch="0"),
        line("pin", 1, expires_at="2026-01-31T11:59:59Z"),
        line("rollback", 1, to_epoch=0, reason="\udcff", checkpoint=A).replace("\\udcff", "\udcff"),
        line("pin", 1, other=0).replace(": 0}", ": " + "[" * 100_000 + "]" * 100_000 + "}"),
    ],
    ids=range(13),
)
def test_a_bad_line_is_a_refused_message_and_the_fold_goes_on(bad: str) -> None:
    rows = list(explain([STORY[0], bad, line("pin", 9)]))
    assert [row["accepted"] for row in rows] == [True, False, True]
    assert [row["offset"] for row in rows] == [0, 1, 2]
    assert rows[1]["reason"]
    assert rows[1]["epoch"] == 0


def test_a_refused_line_without_a_time_still_takes_its_id() -> None:
    rows = list(explain([STORY[0], line("pin", 1, appended_at="never"), line("pin", 1)]))
    assert [row["accepted"] for row in rows] == [True, False, False]


def test_expiry_is_judged_by_the_time_in_the_line() -> None:
    early, late = "2026-01-31T12:00:00+02:00", "2026-01-31T12:00:00-02:00"
    in_time = line("pin", 1, expires_at=STAMP, appended_at=early)
    too_late = line("unpin", 2, expires_at=STAMP, appended_at=late)
    rows = list(explain([STORY[0], in_time, too_late]))
    assert [row["accepted"] for row in rows] == [True, True, False]


def test_blank_lines_are_no_messages() -> None:
    assert list(explain(["\n", STORY[0] + "\r\n", "  \n", *STORY[1:]])) == list(explain(STORY))


def test_lines_are_answered_as_they_come() -> None:
    rows = explain(line("genesis", n, log_id="log", base=A, start_head=A) for n in iter(int, 1))
    assert next(rows)["accepted"]
    assert not next(rows)["accepted"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40) | st.sampled_from(STORY), max_size=15))
def test_any_text_is_explained_without_an_exception(lines: list[str]) -> None:
    rows = list(explain(lines))
    assert len(rows) == sum(bool(text.strip()) for text in lines)
    assert all(list(row) == KEYS for row in rows)
