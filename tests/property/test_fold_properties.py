"""The fold over arbitrary logs: prefixes, duplicates, forks, and what no message may ever bring about."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_ft import control
from stream_ft.release.fold import INITIAL, Entry, State, Verdict, fold
from stream_ft.release.state_file import decode_state, encode_state

BASES = [letter * 64 for letter in "abcd"]
HEADS = [digit * 64 for digit in "0123"]
ISSUERS = ["operator/anna", "learner/one", "learner/two"]
GENESIS = {
    "type": "genesis",
    "id": "g",
    "issued_by": "operator/anna",
    "issued_at": "2026-01-31T12:00:00Z",
    "log_id": "log",
    "base": BASES[0],
    "start_head": HEADS[0],
}
MOVERS = control.Genesis | control.Lead | control.Promote | control.Rollback | control.Deny

epochs = st.integers(0, 8)
bases = st.sampled_from(BASES)
heads = st.sampled_from(HEADS)
shares = st.sampled_from([0, 0.1, 1])
kinds: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "genesis": {"log_id": st.just("other"), "base": bases, "start_head": heads},
    "lead": {"expected_epoch": epochs},
    "promote": {"base": bases, "start_head": heads, "parent": bases, "expected_epoch": epochs},
    "rollback": {
        "to_epoch": epochs,
        "reason": st.just("r"),
        "automatic": st.booleans(),
        "expected_epoch": st.none() | epochs,
        "checkpoint": st.none() | heads,
        "quarantine": st.none() | st.fixed_dictionaries({"source": st.none() | st.just("s"), "since": st.just(5)}),
    },
    "deny": {"sha256": bases, "reason": st.just("r")},
    "pin": {},
    "unpin": {},
    "pause": {},
    "resume": {},
    "train_now": {},
    "label_add": {"label": st.sampled_from(["x", "y"])},
    "shadow": {"base": st.none() | bases, "start_head": heads, "share": shares},
    "canary": {"base": bases, "start_head": heads, "share": shares},
    "nonsense": {},
}


def messages(kind: str) -> st.SearchStrategy[bytes]:
    header = {
        "type": st.just(kind),
        "id": st.integers(0, 60).map(lambda i: f"m{i}"),
        "issued_by": st.sampled_from(ISSUERS),
        "issued_at": st.just("2026-01-31T12:00:00Z"),
    }
    fields = st.fixed_dictionaries(
        header | kinds[kind], optional={"expires_at": st.just("1970-01-01T00:00:10Z")} if kind != "promote" else {}
    )
    return fields.map(lambda m: json.dumps(m).encode())


# Blind messages rarely name the epoch and the base of the moment, so a part of them is completed from the state.
aware = st.tuples(
    st.sampled_from(["promote", "promote", "rollback", "lead", "deny", "canary"]),
    st.sampled_from(["operator/anna", "leader", "learner/two"]),
    bases,
    heads,
    st.integers(0, 4),
)
blind = st.one_of(*map(messages, kinds), st.binary(max_size=10))
logs = st.lists(st.booleans().flatmap(lambda informed: aware if informed else blind), min_size=10, max_size=40)


def complete(state: State, number: int, step: bytes | tuple[str, str, str, str, int]) -> bytes:
    if isinstance(step, bytes):
        return step
    kind, issuer, base, head, back = step
    if issuer == "leader":
        issuer = state.leader or "learner/one"
    fields: dict[str, Any] = {
        "lead": {"expected_epoch": state.epoch},
        "promote": {"base": base, "start_head": head, "parent": state.base, "expected_epoch": state.epoch},
        "rollback": {
            "to_epoch": max(0, state.epoch - back),
            "reason": "r",
            "automatic": issuer != ISSUERS[0],
            "expected_epoch": state.epoch,
        },
        "deny": {"sha256": state.base, "reason": "r"},
        "canary": {"base": base, "start_head": head, "share": back / 4},
    }[kind]
    header = {"type": kind, "id": f"aware{number}", "issued_by": issuer, "issued_at": "2026-01-31T12:00:00Z"}
    return json.dumps(header | fields).encode()


def write(steps: list[Any]) -> list[Entry]:
    """The steps as a log that begins with a genesis."""
    state = INITIAL
    entries = []
    for offset, step in enumerate([json.dumps(GENESIS).encode(), *steps]):
        entry = Entry(offset=offset, appended_at=float(offset), value=complete(state, offset, step))
        state, _ = fold(state, entry)
        entries.append(entry)
    return entries


def run(entries: list[Entry]) -> list[tuple[State, Verdict]]:
    state = INITIAL
    found = []
    for entry in entries:
        state, verdict = fold(state, entry)
        found.append((state, verdict))
    return found


@settings(max_examples=100, deadline=None)
@given(logs)
def test_every_step_keeps_what_must_hold(steps: list[Any]) -> None:
    before = INITIAL
    names: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()
    for entry, (state, verdict) in zip(entries := write(steps), run(entries), strict=True):
        assert state.offset == entry.offset
        assert state.epoch - before.epoch in (0, 1)
        if state.epoch != before.epoch:
            assert verdict.accepted
            assert isinstance(verdict.message, MOVERS)
        if state.release != before.release:
            assert state.epoch == before.epoch + 1
        if state.leader != before.leader:
            assert isinstance(verdict.message, control.Lead)
        if not verdict.accepted:
            assert (
                encode_state(state).partition(b"\n")[2]
                == encode_state(State(**(vars(before) | {"offset": state.offset, "ids": state.ids}))).partition(b"\n")[
                    2
                ]
            )
            assert verdict.reason
        if verdict.id is not None:
            assert not (verdict.accepted and verdict.id in seen)
            seen.add(verdict.id)
        assert seen == set(state.ids)
        assert state.base not in state.denied
        assert set(before.denied) <= set(state.denied)
        assert [epoch for epoch, _ in state.history] == list(range(state.epoch + 1))
        assert state.history[-1][1] == state.release
        assert names.setdefault(state.version, state.release) == state.release
        if state.trial is not None:
            assert state.trial.base not in state.denied
            assert state.trial.release != state.release
            assert names.setdefault(state.trial.version, state.trial.release) == state.trial.release
        before = state


@settings(max_examples=60, deadline=None)
@given(logs, st.integers(0, 40))
def test_a_prefix_folded_and_kept_goes_on_to_the_same_state(steps: list[Any], cut: int) -> None:
    entries = write(steps)
    whole = run(entries)
    state = run(entries[: cut + 1])[-1][0]
    state = decode_state(encode_state(state))
    for entry in entries[cut + 1 :]:
        state, _ = fold(state, entry)
    assert state == whole[-1][0]


@settings(max_examples=60, deadline=None)
@given(logs)
def test_folding_on_leaves_the_states_before_as_they_were(steps: list[Any]) -> None:
    entries = write(steps)
    state = INITIAL
    kept = []
    for entry in entries:
        kept.append((state, encode_state(state)))
        fold(state, Entry(offset=entry.offset, appended_at=0.0, value=b'{"id": "fork"}'))
        state, _ = fold(state, entry)
    assert all(encode_state(state) == data for state, data in kept)
    assert run(entries)[-1][0] == state


@settings(max_examples=60, deadline=None)
@given(logs, st.data())
def test_messages_that_arrive_again_change_nothing(steps: list[Any], data: st.DataObject) -> None:
    entries = write(steps)
    once = run(entries)[-1][0]
    again: list[Entry] = []
    for entry in entries:
        readable = not isinstance(control.decode(entry.value), control.Malformed)
        for value in [entry.value] * (data.draw(st.integers(1, 3)) if readable else 1):
            again.append(Entry(offset=len(again), appended_at=entry.appended_at, value=value))
    twice = run(again)[-1][0]
    ours, theirs = (
        {
            **vars(state),
            "offset": 0,
            "ids": set(state.ids),
            "numbers": dict(state.numbers),
            "trial": state.trial and replace(state.trial, offset=0),
        }
        for state in (once, twice)
    )
    assert ours == theirs


@settings(max_examples=60, deadline=None)
@given(logs, st.lists(st.integers(0, 60), max_size=10))
def test_a_log_delivered_again_from_an_earlier_offset_changes_nothing(steps: list[Any], back: list[int]) -> None:
    entries = write(steps)
    state = INITIAL
    for number, entry in enumerate(entries):
        state, _ = fold(state, entry)
        if number < len(back):
            for old in entries[max(0, number - back[number]) : number + 1]:
                after, verdict = fold(state, old)
                assert after is state
                assert not verdict.accepted
    assert state == run(entries)[-1][0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20))
@example([b"[" * 100_000])
@example([b'{"type": "pin", "id": "\xff"}'])
def test_any_bytes_are_folded_without_an_exception(values: list[bytes]) -> None:
    state, _ = fold(INITIAL, Entry(offset=0, appended_at=0.0, value=json.dumps(GENESIS).encode()))
    for offset, value in enumerate(values, start=1):
        state, verdict = fold(state, Entry(offset=offset, appended_at=0.0, value=value))
        assert not verdict.accepted
    assert state.epoch == 0


def test_the_cost_of_a_message_does_not_grow_with_the_log() -> None:
    """Twice 20,000 promotions: the second half must not cost several times the first."""
    state, _ = fold(INITIAL, Entry(offset=0, appended_at=0.0, value=json.dumps(GENESIS).encode()))
    costs = []
    offset = 0
    for _ in range(2):
        started = time.process_time()
        for _ in range(20_000):
            offset += 1
            head = f"{offset:064x}"
            value = complete(state, offset, ("promote", ISSUERS[0], BASES[offset % 4], head, 0))
            state, verdict = fold(state, Entry(offset=offset, appended_at=0.0, value=value))
            assert verdict.accepted
        costs.append(time.process_time() - started)
    assert state.epoch == 40_000
    assert costs[1] < 3 * costs[0]
