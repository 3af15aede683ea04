"""The saved state of a replica: replaced as a whole, read back as it was, refused when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from stream_ft.errors import ConfigError
from stream_ft.release import state_file
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.release.state_file import decode_state, encode_state, read, write

A, B = "a" * 64, "b" * 64
HEADER = {"issued_by": "operator/anna", "issued_at": "2026-01-31T12:00:00Z"}
MESSAGES = [
    {"type": "genesis", "id": "1", "log_id": "log", "base": A, "start_head": A},
    {"type": "lead", "id": "2", "issued_by": "learner/one", "expected_epoch": 0},
    {"type": "promote", "id": "3", "base": B, "start_head": B, "parent": A, "expected_epoch": 1},
    {"type": "rollback", "id": "4", "to_epoch": 0, "reason": "", "quarantine": {"source": "bulk", "since": 1.5}},
    {"type": "label_add", "id": "5", "label": "换货"},
    {"type": "pin", "id": "6"},
    {"type": "train_now", "id": "7"},
    {"type": "canary", "id": "10", "base": "c" * 64, "start_head": A, "share": 0.1},
    {"type": "dance", "id": "8"},
]


@pytest.fixture
def state() -> State:
    folded = INITIAL
    for offset, message in enumerate(MESSAGES):
        folded, _ = fold(folded, Entry(offset=offset, appended_at=1.0, value=json.dumps(HEADER | message).encode()))
    assert (folded.epoch, len(folded.quarantines), folded.pinned, set(folded.denied)) == (3, 1, True, {B})
    assert folded.trial is not None
    return folded


def test_a_state_comes_back_as_it_was(state: State) -> None:
    for kept in (INITIAL, state):
        assert decode_state(encode_state(kept)) == kept


def test_a_state_that_came_back_goes_on(state: State) -> None:
    back = decode_state(encode_state(state))
    entry = Entry(
        offset=len(MESSAGES), appended_at=1.0, value=json.dumps(HEADER | {"type": "unpin", "id": "9"}).encode()
    )
    assert fold(back, entry) == fold(state, entry)
    doubled = Entry(
        offset=len(MESSAGES), appended_at=1.0, value=json.dumps(HEADER | MESSAGES[-1] | {"type": "pin"}).encode()
    )
    assert not fold(back, doubled)[1].accepted


def test_a_file_from_before_there_were_trials_is_read(state: State) -> None:
    body = json.loads(encode_state(state).partition(b"\n")[2])
    del body["trial"]
    old = json.dumps(body).encode()
    assert decode_state(sha256(old).hexdigest().encode() + b"\n" + old) == replace(state, trial=None)


def test_damaged_bytes_are_refused_wherever_the_damage_is(state: State) -> None:
    data = encode_state(state)
    for position in range(0, len(data), 7):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(ConfigError):
            decode_state(damaged)
    for cut in (b"", data[:10], data[:-1], data + b" "):
        with pytest.raises(ConfigError) as caught:
            decode_state(cut)
        assert caught.value.remedy


def test_another_format_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "FORMAT", 2)
    data = encode_state(state)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="format 2"):
        decode_state(data)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "serve.state"
    assert read(path) is None
    write(path, b"one", durable=durable)
    before = path.stat().st_ino
    write(path, b"two", durable=durable)
    assert read(path) == b"two"
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["serve.state"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "serve.state"
    write(path, b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, b"two")
    assert read(path) == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["serve.state"]


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.state"
    write(path, b"one")
    code = (
        "from pathlib import Path; from stream_ft.release.state_file import write; "
        f"write(Path({str(path)!r}), b'two'); write(Path({str(path)!r}), b'three')"
    )
    environment = os.environ | {"STREAM_FT_FAILPOINT": "state.before_rename:kill:2"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert read(path) == b"two"
