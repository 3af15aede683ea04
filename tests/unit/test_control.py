"""Control messages: what can be read, what is malformed, and that both are the same everywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft import control
from stream_ft.control import Malformed
from stream_ft.events import to_json

SHA = "ab" * 32
HEADER = {"id": "m1", "issued_by": "operator/anna", "issued_at": "2026-01-31T12:00:00Z"}
FIELDS: dict[str, dict[str, Any]] = {
    "genesis": {"log_id": "l", "base": SHA, "start_head": SHA},
    "lead": {"expected_epoch": 0},
    "promote": {"base": SHA, "start_head": SHA, "parent": SHA, "expected_epoch": 0},
    "rollback": {"to_epoch": 0, "reason": "worse"},
    "deny": {"sha256": SHA, "reason": "worse"},
    "pin": {},
    "unpin": {},
    "pause": {},
    "resume": {},
    "train_now": {},
    "label_add": {"label": "refund"},
    "erase": {"subject_hmac": "00ff"},
    "shadow": {},
    "canary": {"base": SHA, "start_head": SHA, "share": 0.1},
}


def raw(kind: str, **changes: Any) -> bytes:
    return json.dumps({"type": kind, **HEADER, **FIELDS[kind], **changes}).encode()


@pytest.mark.parametrize("kind", FIELDS)
def test_every_type_is_read_and_written_as_it_was(kind: str) -> None:
    message = control.decode(raw(kind))
    assert not isinstance(message, Malformed)
    assert message.__struct_config__.tag == kind
    assert control.decode(to_json(message)) == message


def test_every_type_has_a_case_here() -> None:
    assert {kind.__struct_config__.tag for kind in control.Message.__args__} == set(FIELDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind in FIELDS for field in (*HEADER, *FIELDS[kind], "type")]
)
def test_a_message_that_lacks_a_field_is_malformed(kind: str, field: str) -> None:
    fields = json.loads(raw(kind))
    del fields[field]
    assert isinstance(control.decode(json.dumps(fields).encode()), Malformed)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lead", {"expected_epoch": "0"}),
        ("lead", {"expected_epoch": 0.0}),
        ("lead", {"expected_epoch": True}),
        ("lead", {"expected_epoch": None}),
        ("lead", {"expected_epoch": -1}),
        ("rollback", {"to_epoch": "0"}),
        ("rollback", {"to_epoch": 10**4000}),
        ("rollback", {"automatic": 1}),
        ("rollback", {"automatic": "true"}),
        ("rollback", {"reason": 5}),
        ("rollback", {"quarantine": "alice"}),
        ("rollback", {"quarantine": {"source": 5}}),
        ("rollback", {"quarantine": {"since": "yesterday"}}),
        ("rollback", {"checkpoint": "ab"}),
        ("deny", {"sha256": SHA.upper()}),
        ("deny", {"sha256": SHA + "\n"}),
        ("deny", {"sha256": SHA[:-1]}),
        ("deny", {"sha256": "٣" * 64}),
        ("promote", {"parent": ""}),
        ("promote", {"base": 0}),
        ("pin", {"checkpoint": 5}),
        ("canary", {"share": 1.5}),
        ("canary", {"share": "0"}),
        ("label_add", {"label": ""}),
        ("genesis", {"log_id": ""}),
        ("pin", {"id": ""}),
        ("pin", {"id": 5}),
        ("pin", {"id": "x" * 201}),
        ("pin", {"issued_by": "anna"}),
        ("pin", {"issued_by": "operator/"}),
        ("pin", {"issued_by": "root/anna"}),
        ("pin", {"issued_at": "2026-01-31T12:00:00"}),
        ("pin", {"issued_at": 5}),
        ("pin", {"expires_at": "soon"}),
        ("pin", {"signature": 5}),
        ("pin", {"type": "PIN"}),
        ("pin", {"type": None}),
    ],
)
def test_types_are_strict(kind: str, change: dict[str, Any]) -> None:
    assert isinstance(control.decode(raw(kind)), control.Command)
    assert isinstance(control.decode(raw(kind, **change)), Malformed)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b'"pin"',
        b"{",
        raw("pin") + b"x",
        raw("pin").replace(b"m1", b"\xff"),
        raw("pin", expected=0).replace(b" 0", b" NaN"),
        raw("pin", other=[]).replace(b"[]", b"[" * 100_000 + b"]" * 100_000),
        raw("pin", other=[]).replace(b"[]", b"[" * 100_000),
        b"[" * 1_000_000,
        b'"' + b'\\"' * 500_000,
    ],
    ids=range(12),
)
def test_bytes_that_are_no_message_are_malformed_with_a_reason(value: bytes) -> None:
    found = control.decode(value)
    assert isinstance(found, Malformed)
    assert found.reason.endswith(".")


def test_unknown_fields_are_ignored_so_that_an_old_reader_folds_a_new_log() -> None:
    assert control.decode(raw("pin", colour="green")) == control.decode(raw("pin"))


def test_nesting_is_bounded_at_a_fixed_depth_and_not_by_the_stack() -> None:
    def nested(depth: int) -> bytes:
        return raw("pin", other=0).replace(b" 0", b" " + b"[" * depth + b"]" * depth)

    assert isinstance(control.decode(nested(control.MAX_NESTING - 1)), control.Pin)
    assert isinstance(control.decode(nested(control.MAX_NESTING)), Malformed)


def test_brackets_in_strings_are_no_nesting() -> None:
    reason = '\\"' + "[{" * 500
    message = control.decode(raw("rollback", reason=reason))
    assert isinstance(message, control.Rollback)
    assert message.reason == reason


def test_the_id_of_a_malformed_message_is_told_where_it_can_be_read() -> None:
    assert control.decode(raw("lead", expected_epoch="0")) == Malformed(
        reason="The message cannot be read: Expected `int`, got `str` - at `$.expected_epoch`.", id="m1"
    )
    unknown = control.decode(raw("pin", type="dance"))
    assert isinstance(unknown, Malformed)
    assert unknown.id == "m1"


def test_new_gives_an_id_of_its_own_and_the_time_of_issue() -> None:
    one = control.new(control.Lead, by="learner/a", now=1_700_000_000.25, expected_epoch=3)
    two = control.new(control.Lead, by="learner/a", now=1_700_000_000.25, expected_epoch=3)
    assert one.id != two.id
    assert one.issued_at == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert control.decode(to_json(one)) == one


@pytest.mark.parametrize("fields", [{}, {"expected_epoch": "3"}, {"expected_epoch": 3, "colour": "green"}])
def test_new_makes_nothing_that_a_reader_would_refuse(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        control.new(control.Lead, by="learner/a", now=0.0, **fields)


def test_new_takes_an_issuer_of_a_known_kind_only() -> None:
    with pytest.raises(msgspec.ValidationError):
        control.new(control.Pin, by="anna", now=0.0)


def test_new_with_a_quarantine() -> None:
    message = control.new(
        control.Rollback, by="operator/a", now=0.0, to_epoch=1, reason="x", quarantine={"source": "bulk", "since": 5}
    )
    assert message.quarantine == control.Quarantine(source="bulk", since=5.0)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=20).map(lambda b: raw("rollback") + b)))
def test_any_bytes_give_a_message_or_a_reason(value: bytes) -> None:
    found = control.decode(value)
    assert isinstance(found, control.Command | Malformed)
    assert found == control.decode(value)
