"""An operator's commands: what goes onto the log, and what the operator is told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TOPIC, Done, StateFolder, command

from stream_ft.connectors.registry import open_log

Run = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """Epochs 0 (genesis), 1 (lead), 2 and 3 (promotions); v3.3.0 is in force."""
    state = StateFolder(tmp_path / "state")
    state.genesis()
    state.promote(1)
    state.promote(2)
    return state


@pytest.fixture
def run(folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``stream-ft control WORDS`` on that folder."""
    return lambda *words: command(capsys, monkeypatch, "control", *words, "--state-dir", folder.path)


def messages(folder: StateFolder) -> list[dict[str, object]]:
    """What is on the control log."""
    log = open_log("sqlite://", folder=folder.path, writes=[])
    try:
        return [json.loads(record.value) for record in log.read(TOPIC, 0, 0, 100)]
    finally:
        log.close()


def test_rollback_goes_to_what_was_in_force_before(run: Run, folder: StateFolder) -> None:
    done = run("rollback", "--reason", "bad on refunds")
    assert (done.code, done.err) == (0, "")
    assert "v3.3.0 -> v2.4.0" in done.out
    last = messages(folder)[-1]
    assert (last["type"], last["to_epoch"], last["reason"], last["issued_by"]) == (
        "rollback", 2, "bad on refunds", "operator/operator",
    )  # fmt: skip


def test_rollback_given_twice_goes_further_back(run: Run) -> None:
    run("rollback")
    assert "v2.4.0 -> v0.5.0" in run("rollback").out
    third = run("rollback")
    assert third.code == 2
    assert "no version before v0.5.0" in third.err


@pytest.mark.parametrize("to", ["2", "v2.2.0"])
def test_rollback_to_an_epoch_or_a_version(run: Run, to: str) -> None:
    assert "v3.3.0 -> v2.4.0" in run("rollback", "--to", to).out


@pytest.mark.parametrize("to", ["v9.2.0", "v2.99.0", "yesterday", "-1", "²", "v2.2.0 "])
def test_rollback_to_what_is_no_version_appends_nothing(run: Run, folder: StateFolder, to: str) -> None:
    before = len(messages(folder))
    done = run("rollback", f"--to={to}")
    assert done.code == 2
    assert "Can be had: v2.2.0, v0.1.0, v0.0.0." in done.err
    assert len(messages(folder)) == before


def test_fault_21_rollback_to_what_is_gone_or_denied_names_what_can_be_had(run: Run, folder: StateFolder) -> None:
    done = run("rollback", "--to", "77")
    assert done.code == 1
    assert "Refused: Epoch 77 is not in the history" in done.err
    assert "Can be had: v2.2.0, v0.1.0, v0.0.0." in done.err
    assert messages(folder)[-1]["to_epoch"] == 77, "a refused command stays on the log"
    run("deny", folder.bases[1][:12])
    denied = run("rollback", "--to", "2")
    assert denied.code == 1
    assert "denied" in denied.err
    assert "Can be had: v0.1.0, v0.0.0." in denied.err


def test_fault_21_what_the_registry_has_no_more_is_refused_and_not_on_the_log(run: Run, folder: StateFolder) -> None:
    folder.registry.delete(folder.bases[1])
    before = len(messages(folder))
    done = run("rollback", "--to", "v2.2.0")
    assert done.code == 2
    assert f"v2.2.0 would come into force, but base {folder.bases[1][:12]} is not in" in done.err
    assert "Can be had: v0.1.0, v0.0.0." in done.err
    assert len(messages(folder)) == before
    assert "v3.3.0 -> v0.4.0" in run("rollback").out, "the previous one that is there"


def test_fault_21_so_is_what_is_damaged(run: Run, folder: StateFolder) -> None:
    folder.registry.head_path(folder.heads[1]).write_bytes(b"x")
    done = run("rollback")
    assert done.code == 2
    assert f"head {folder.heads[1][:12]} do not hash to its name" in done.err
    assert run("rollback", "--to", "0").code == 0


def test_fault_21_a_deny_that_would_bring_back_what_is_gone_is_refused(run: Run, folder: StateFolder) -> None:
    folder.registry.delete_head(folder.heads[1])
    before = len(messages(folder))
    done = run("deny", folder.bases[2])
    assert done.code == 2
    assert f"v2.2.0 would come into force, but head {folder.heads[1][:12]} is not in" in done.err
    assert "Roll back first" in done.err
    assert "Can be had: v0.1.0, v0.0.0." in done.err
    assert len(messages(folder)) == before
    assert run("deny", folder.bases[1]).code == 0, "one that is not active brings nothing back"
    assert "v3.3.0 -> v0.4.0" in run("deny", folder.bases[2]).out


def test_rollback_skips_denied_versions(run: Run, folder: StateFolder) -> None:
    assert run("deny", folder.bases[1]).code == 0
    assert "v3.3.0 -> v0.4.0" in run("rollback").out


def test_rollback_quarantines(run: Run, folder: StateFolder) -> None:
    done = run("rollback", "--quarantine-source", "bulk", "--quarantine-since", "2026-01-31T12:00:00Z")
    assert done.code == 0
    assert messages(folder)[-1]["quarantine"] == {"source": "bulk", "since": 1769860800.0}


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("noon", "not a time"),
        ("inf", "not a time"),
        ("nan", "not a time"),
        ("2026-01-31T12:00:00", "no offset from UTC"),
    ],
)
def test_a_time_that_cannot_be_read_appends_nothing(run: Run, folder: StateFolder, time: str, said: str) -> None:
    done = run("rollback", "--quarantine-since", time)
    assert done.code == 2
    assert said in done.err
    assert messages(folder)[-1]["type"] == "promote"


def test_deny_takes_the_first_digits_of_a_base(run: Run, folder: StateFolder) -> None:
    done = run("deny", folder.bases[2][:8], "--reason", "stolen data")
    assert "v3.3.0 -> v2.4.0" in done.out
    assert messages(folder)[-1]["sha256"] == folder.bases[2]


@pytest.mark.parametrize("prefix", ["", "abc", "0" * 8, "zzzzzzzzz"])
def test_deny_of_what_nothing_is_called_is_an_error(run: Run, prefix: str) -> None:
    done = run("deny", prefix)
    assert done.code == 2
    assert "See stream-ft adapters list." in done.err


def test_deny_of_a_hash_that_is_none_appends_nothing(run: Run, folder: StateFolder) -> None:
    assert run("deny", "g" * 64).code == 2
    assert messages(folder)[-1]["type"] == "promote"


@pytest.mark.parametrize(("on", "off", "flag"), [("pin", "unpin", "pinned"), ("pause", "resume", "paused")])
def test_flags_go_on_and_off(run: Run, on: str, off: str, flag: str) -> None:
    assert f"v3.3.0, {flag}" in run(on).out
    assert flag not in run(off).out


def test_an_operators_rollback_wins_over_a_pin(run: Run) -> None:
    run("pin")
    run("pause")
    assert "v3.3.0 -> v2.4.0" in run("rollback").out


def test_train_now_and_label_add(run: Run, folder: StateFolder) -> None:
    assert run("train-now").code == 0
    assert run("label-add", "Rückgabe und Umtausch").code == 0
    assert [m["type"] for m in messages(folder)[-2:]] == ["train_now", "label_add"]
    assert messages(folder)[-1]["label"] == "Rückgabe und Umtausch"


def test_a_label_that_is_too_long_is_an_error_and_not_on_the_log(run: Run, folder: StateFolder) -> None:
    assert run("label-add", "x" * 500).code == 2
    assert messages(folder)[-1]["type"] == "promote"


def test_the_operators_name_is_on_the_message(run: Run, folder: StateFolder) -> None:
    run("pause", "--set", "operator=ann")
    assert messages(folder)[-1]["issued_by"] == "operator/ann"


def test_commands_need_a_state_folder_that_was_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = command(capsys, monkeypatch, "control", "pause", "--state-dir", tmp_path / "nowhere")
    assert missing.code == 2
    assert not (tmp_path / "nowhere").exists(), "a slip of the keyboard must not make a folder"
    (tmp_path / "empty").mkdir()
    empty = command(capsys, monkeypatch, "control", "pause", "--state-dir", tmp_path / "empty")
    assert (empty.code, "Start stream-ft up first" in empty.err) == (1, True)


# --- trials ----------------------------------------------------------------------------------------------------


def test_a_canary_of_an_earlier_version_grows_and_ends(run: Run, folder: StateFolder) -> None:
    done = run("canary", "v2.2.0", "--share", "0.1")
    assert (done.code, done.err) == (0, "")
    said = f"In force: v3.3.0. On trial: trial-4 (base {folder.bases[1][:12]}), canary, share 0.1."
    assert said in done.out
    last = messages(folder)[-1]
    assert (last["base"], last["start_head"], last["share"]) == (folder.bases[1], folder.heads[1], 0.1)
    assert "trial-4" in run("canary", "2", "--share", "0.5").out
    assert messages(folder)[-1]["share"] == 0.5
    assert "On trial: nothing." in run("canary", "--share", "0").out
    none = run("canary", "--share", "0")
    assert (none.code, "No trial runs" in none.err) == (2, True)


def test_a_shadow_of_a_base_that_was_never_in_force(run: Run, folder: StateFolder) -> None:
    folder.make(3)
    base, head = folder.bases[3], folder.heads[3]
    unnamed = run("shadow", base[:12])
    assert (unnamed.code, "Give it by --head." in unnamed.err) == (2, True)
    done = run("shadow", base[:12], "--head", head[:12], "--share", "0.25")
    assert "shadow, share 0.25." in done.out
    assert (messages(folder)[-1]["base"], messages(folder)[-1]["start_head"]) == (base, head)
    assert "On trial: nothing." in run("shadow", "--share", "0").out


@pytest.mark.parametrize("name", ["v9.2.0", "77", "f" * 64, "00000000", "yesterday", ""])
def test_what_nothing_is_called_is_not_tried_and_what_can_be_is_listed(
    run: Run, folder: StateFolder, name: str
) -> None:
    before = len(messages(folder))
    done = run("canary", name, "--share", "0.1")
    assert done.code == 2
    assert "v2.2.0, v0.1.0" in done.err
    assert len(messages(folder)) == before


def test_what_is_in_force_denied_gone_or_too_much_is_not_tried(run: Run, folder: StateFolder) -> None:
    in_force = run("canary", "v3.3.0", "--share", "0.1")
    assert (in_force.code, "Can be tried: v2.2.0, v0.1.0." in in_force.err) == (1, True)
    assert run("canary", "v2.2.0", "--share", "1.5").code == 2
    folder.registry.delete(folder.bases[1])
    gone = run("canary", folder.bases[1][:8], "--share", "0.1")
    assert gone.code == 2
    assert "is not in" in gone.err
    assert "Can be tried: v0.1.0." in gone.err
    run("deny", folder.bases[0][:12])
    denied = run("shadow", "v0.1.0")
    assert (denied.code, "None can be tried." in denied.err) == (1, True)


# --- explain -----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(folder: StateFolder, tmp_path: Path) -> Path:
    """The folder's control log as a file, one message a line."""
    path = tmp_path / "control.jsonl"
    lines = [json.dumps(m | {"appended_at": "2026-01-31T12:00:00Z"}) for m in messages(folder)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_explain_prints_an_object_for_each_message(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command(capsys, monkeypatch, "control", "explain", file, "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert [row["version"] for row in rows] == ["v0.0.0", "v0.1.0", "v2.2.0", "v3.3.0"]
    wanted = "offset id accepted reason epoch leader base start_head version pinned paused denied trial"
    assert set(rows[0]) == set(wanted.split())


def test_explain_in_words_says_why_something_was_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with file.open("ab") as out:
        out.write(b"no json\n\xff\xfe\n" + b"[" * 100_000 + b"\n")
    done = command(capsys, monkeypatch, "control", "explain", file)
    lines = done.out.splitlines()
    assert (done.code, len(lines)) == (0, 7)
    assert all("refused" in line and "v3.3.0 in force" in line for line in lines[4:])
    assert "accepted" in lines[3]


def test_explain_in_words_shows_a_trial(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = "2026-01-31T12:00:00Z"
    message = {"type": "canary", "id": "c1", "issued_by": "operator/o", "issued_at": stamp, "appended_at": stamp}
    with file.open("a") as out:
        out.write(json.dumps(message | {"base": "e" * 64, "start_head": "f" * 64, "share": 0.25}) + "\n")
    lines = command(capsys, monkeypatch, "control", "explain", file).out.splitlines()
    assert "canary trial-4 of 0.25" in lines[4]
    assert not any("canary" in line for line in lines[:4])


def test_explain_of_a_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command(capsys, monkeypatch, "control", "explain", tmp_path / "none")
    assert (done.code, "There is no file" in done.err) == (2, True)
    folder = command(capsys, monkeypatch, "control", "explain", tmp_path)
    assert (folder.code, "cannot be read" in folder.err) == (2, True)


def test_explain_refuses_bytes_that_are_no_utf_8_inside_a_message_too(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = '"issued_at": "2026-01-01T00:00:00Z", "appended_at": "2026-01-01T00:00:00Z"'
    line = f'{{"type": "pin", "id": "q1", "issued_by": "operator/o", {stamps}, "signature": "?"}}\n'.encode()
    bad = file.read_bytes() + line.replace(b"?", b"\xff")
    file.write_bytes(bad)
    said = command(capsys, monkeypatch, "control", "explain", file).out
    assert said.splitlines()[-1].split()[1] == "refused"
    # A stdin that Python would read strictly, as in most locales.
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bad), encoding="utf-8", errors="strict"))
    assert command(capsys, monkeypatch, "control", "explain", "-").out == said
