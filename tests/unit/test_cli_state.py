"""``stream-ft status``, ``doctor`` and ``reset`` on state folders in all conditions."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from command_line import Done, StateFolder, command

from stream_ft import cli_state, control, doctor
from stream_ft.config import load
from stream_ft.errors import ModelNotFoundError
from stream_ft.lock import FolderLock
from stream_ft.release.state_file import encode_state
from stream_ft.serve.follow import Kept
from stream_ft.wiring.operator import look

Run = Callable[..., Done]

LEARNER = {
    "time": 1_700_000_000.0,
    "ready": True,
    "why": "",
    "next_round": {"reason": "Waiting for 23 more examples.", "in_s": 4.0},
    "round": None,
    "counts": {"train": 120, "holdout": 7},
    "accuracy": 0.75,
    "accuracy_over": 60,
    "lag": 3,
    "happenings": [{"kind": "refusal", "text": "head: worse by 3 points", "time": 1_700_000_000.0}],
}


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """A learner leads; v0.1.0 is in force."""
    state = StateFolder(tmp_path / "state")
    state.genesis()
    return state


@pytest.fixture
def run(folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``stream-ft WORDS`` on that folder."""
    return lambda *words: command(capsys, monkeypatch, *words, "--state-dir", folder.path)


# --- status ------------------------------------------------------------------------------------------------------


def test_status_says_when_the_next_round_comes_and_why(run: Run, folder: StateFolder) -> None:
    (folder.path / "learn.status.json").write_text(json.dumps(LEARNER))
    text = run("status").out
    assert "Waiting for 23 more examples. (in 4 s)" in text
    assert "v0.1.0 (epoch 1), led by learner/one" in text
    assert "0.750 over the last 60 labelled events" in text
    assert "refusal: head: worse by 3 points" in text
    assert "learn     not running" in text


def test_status_says_what_is_on_trial(run: Run, folder: StateFolder) -> None:
    assert json.loads(run("status", "--json").out)["trial"] is None
    folder.make(9)
    base, head = folder.bases[-1], folder.heads[-1]
    folder.append(control.Canary, "operator/ann", base=base, start_head=head, share=0.1)
    told = json.loads(run("status", "--json").out)["trial"]
    assert (told["kind"], told["base"], told["start_head"], told["share"]) == ("canary", base, head, 0.1)
    assert f"{told['version']} (base {base[:12]}), canary, share 0.1" in run("status").out


def test_status_names_the_processes_that_run(run: Run, folder: StateFolder) -> None:
    with FolderLock(folder.path / "learn.lock", "stream-ft learn"):
        found = json.loads(run("status", "--json").out)["running"]
    assert found == {"up": None, "serve": None, "learn": str(os.getpid())}


def test_status_before_the_learner_said_anything(run: Run) -> None:
    assert "has not written a status yet" in run("status").out


@pytest.mark.parametrize("bytes_", [b"", b"{", b"\xff", b"[]", b"null"])
def test_status_outlives_a_broken_status_file(run: Run, folder: StateFolder, bytes_: bytes) -> None:
    (folder.path / "learn.status.json").write_bytes(bytes_)
    done = run("status")
    assert done.code == 0
    assert "v0.1.0" in done.out


def test_status_of_a_running_round_and_of_trouble() -> None:
    told: dict[str, Any] = LEARNER | {"round": {"kind": "lora"}, "ready": False, "why": "The disk is full."}
    text = "\n".join(cli_state.learner_lines(told))
    assert "a lora round is running" in text
    assert "The disk is full." in text


def test_looking_at_a_lock_neither_takes_nor_changes_it(tmp_path: Path) -> None:
    assert cli_state.holder(tmp_path, "learn") is None
    assert not (tmp_path / "learn.lock").exists()
    with FolderLock(tmp_path / "learn.lock", "stream-ft learn"):
        assert cli_state.holder(tmp_path, "learn") == str(os.getpid())
        assert (tmp_path / "learn.lock").read_text() == str(os.getpid())
    assert cli_state.holder(tmp_path, "learn") is None


# --- reset -------------------------------------------------------------------------------------------------------


def test_reset_removes_what_was_written_and_nothing_else(run: Run, folder: StateFolder) -> None:
    (folder.path / "notes.txt").write_text("mine")
    done = run("reset", "--yes")
    assert done.code == 0
    assert "control.db" in done.out
    assert "notes.txt" in done.out
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_reset_removes_an_empty_folder_too(run: Run, folder: StateFolder) -> None:
    assert run("reset", "--yes").code == 0
    assert not folder.path.exists()
    assert "nothing to remove" in run("reset").out


def test_reset_without_a_terminal_needs_a_yes(run: Run, folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    done = run("reset")
    assert (done.code, "say --yes" in done.err) == (1, True)
    assert (folder.path / "control.db").exists()


def test_reset_asks_on_a_terminal(run: Run, folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert "Nothing was removed" in run("reset").err
    assert (folder.path / "control.db").exists()
    monkeypatch.setattr("typer.confirm", lambda text: True)
    assert run("reset").code == 0
    assert not folder.path.exists()


@pytest.mark.parametrize(("pressed", "code"), [(KeyboardInterrupt, 130), (EOFError, 1)])
def test_leaving_the_question_removes_nothing(
    run: Run, folder: StateFolder, monkeypatch: pytest.MonkeyPatch, pressed: type[BaseException], code: int
) -> None:
    def leave(prompt: str = "") -> str:
        raise pressed

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(f"{typer.confirm.__module__}.visible_prompt_func", leave)
    assert run("reset").code == code
    assert (folder.path / "control.db").exists()


@pytest.mark.parametrize("role", cli_state.ROLES)
def test_reset_is_refused_while_something_runs(run: Run, folder: StateFolder, role: str) -> None:
    with FolderLock(folder.path / f"{role}.lock", f"stream-ft {role}"):
        done = run("reset", "--yes")
    assert done.code == 1
    assert f"stream-ft {role} runs" in done.err
    assert (folder.path / "control.db").exists()


def test_reset_removes_a_link_and_not_what_it_points_to(run: Run, folder: StateFolder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (folder.path / "jobs").symlink_to(elsewhere)
    assert run("reset", "--yes").code == 0
    assert (elsewhere / "kept").read_text() == "kept"


# --- doctor ------------------------------------------------------------------------------------------------------


def check(name: str, folder: Path, **more: Any) -> doctor.Check:
    """One check with these settings."""
    settings = load(flags={"state_dir": str(folder), **{key.replace("__", "."): value for key, value in more.items()}})
    found: doctor.Check = getattr(doctor, name)(settings)
    return found


def test_doctor_finds_nothing_wrong_with_a_good_folder(folder: StateFolder) -> None:
    for name in ("python", "state_folder", "disk", "databases", "registry", "control"):
        assert check(name, folder.path).standing == "good", name


def test_doctor_finds_a_damaged_database(folder: StateFolder) -> None:
    (folder.path / "store.db").write_bytes(b"SQLite format 3\x00" + b"\x07" * 5000)
    found = check("databases", folder.path)
    assert (found.standing, "store.db" in found.text) == ("broken", True)
    assert found.remedy


def test_doctor_finds_a_key_that_serving_would_not_start_with(folder: StateFolder) -> None:
    path = folder.path / "serve.key"
    path.write_text("x")
    found = check("key", folder.path)
    assert found.standing == "broken"
    assert "is not a key" in found.text
    path.unlink()
    assert check("key", folder.path).standing == "good"
    assert not path.exists(), "a look makes nothing"


def test_doctor_finds_a_version_that_is_not_what_its_name_says(folder: StateFolder) -> None:
    head = folder.registry.head_path(folder.heads[0])
    head.chmod(0o644)
    head.write_bytes(head.read_bytes() + b" ")
    assert (found := check("registry", folder.path)).standing == "broken"
    assert folder.heads[0][:12] in found.text
    assert check("control", folder.path).standing == "broken"


def test_doctor_reminds_of_a_pause(folder: StateFolder, run: Run) -> None:
    run("control", "pause")
    found = check("control", folder.path)
    assert (found.standing, "paused" in found.text) == ("careful", True)


def test_doctor_on_a_folder_that_was_never_used(tmp_path: Path) -> None:
    for name in ("state_folder", "databases", "registry", "control"):
        assert check(name, tmp_path / "new" / "deep").standing == "good", name
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_a_damaged_kept_state_and_status(folder: StateFolder) -> None:
    assert check("kept", folder.path).text == "nothing yet."
    (folder.path / "learn.status.json").write_text("{}")
    assert check("kept", folder.path).standing == "good"
    for name, data in (("learn.status.json", b"[]"), ("serve.state", b"{}"), ("serve.state", b"\xff" * 50)):
        (folder.path / name).write_bytes(data)
        found = check("kept", folder.path)
        assert (found.standing, name in found.text) == ("careful", True)
        (folder.path / name).unlink()
    (folder.path / "serve.state").mkdir()
    assert check("kept", folder.path).standing == "broken"


def test_doctor_knows_a_kept_state_as_serving_writes_it(folder: StateFolder) -> None:
    state = look(load(flags={"state_dir": str(folder.path)})).state
    data = msgspec.json.encode(Kept(log="here", state=encode_state(state)))
    (folder.path / "serve.state").write_bytes(data)
    assert check("kept", folder.path).standing == "good"
    (folder.path / "serve.state").write_bytes(data.replace(b'"state":"', b'"state":"AAAA'))
    assert check("kept", folder.path).standing == "careful"


@pytest.mark.parametrize("words", ["up", "status", "reset", "control pin", "adapters list"])
@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_state_folder_that_is_a_file_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    done = command(capsys, monkeypatch, *words.split(), "--state-dir", tmp_path / "file" / below)
    assert done.code == 2
    assert f"{tmp_path / 'file'} is a file, not a folder." in done.err
    assert "--state-dir" in done.err


def test_doctor_finds_a_state_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = check("state_folder", tmp_path / "file")
    assert (found.standing, bool(found.remedy)) == ("broken", True)
    for name in ("databases", "key", "kept", "registry", "control"):
        assert check(name, tmp_path / "file").standing == "good", name


def test_doctor_finds_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    assert check("state_folder", tmp_path).standing == "broken"


@pytest.mark.parametrize(("free", "standing"), [(10**8, "broken"), (10**9, "careful"), (10**11, "good")])
def test_doctor_judges_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, standing: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free})())
    assert check("disk", tmp_path).standing == standing


def test_doctor_says_what_to_do_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        assert os.environ["HF_HUB_OFFLINE"] == "1", "a check must not download"
        raise ModelNotFoundError(f"The model {name} is not on this machine.", "Connect once.")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("stream_ft.model.base.resolve", nowhere)
    found = check("model", tmp_path)
    assert (found.standing, found.remedy) == ("broken", "Connect once.")
    assert "HF_HUB_OFFLINE" not in os.environ


def test_doctor_says_that_there_is_no_broker(tmp_path: Path) -> None:
    assert check("topics", tmp_path).standing == "good"


def test_doctor_finds_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor.port("serve", "127.0.0.1", port).standing == "careful"
    assert doctor.port("serve", "127.0.0.1", port).standing == "good"
    assert doctor.port("serve", "127.0.0.1", 0).standing == "good"


def test_doctor_exits_1_only_if_something_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good = doctor.Check(name="a", standing="good", text="fine.")
    careful = doctor.Check(name="b", standing="careful", text="hm.", remedy="Look.")
    broken = doctor.Check(name="c", standing="broken", text="no.", remedy="Mend it.")
    monkeypatch.setattr(doctor, "examine", lambda settings: [good, careful])
    assert run("doctor").code == 0
    monkeypatch.setattr(doctor, "examine", lambda settings: [good, careful, broken])
    done = run("doctor")
    assert done.code == 1
    assert "Mend it." in done.out
    assert [row["standing"] for row in json.loads(run("doctor", "--json").out)] == ["good", "careful", "broken"]
