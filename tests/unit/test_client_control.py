"""An operator's commands from Python are those of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command_line import TOPIC, StateFolder

from stream_ft.client import CommandRefusedError, Control, InForce
from stream_ft.connectors.registry import open_log
from stream_ft.errors import ConfigError, StreamFTError


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """Epochs 0 (genesis), 1 (lead), 2 and 3 (promotions); v3.3.0 is in force."""
    state = StateFolder(tmp_path / "state")
    state.genesis()
    state.promote(1)
    state.promote(2)
    return state


@pytest.fixture
def operator(folder: StateFolder) -> Control:
    return Control(folder.path, operator="ann")


def messages(folder: StateFolder) -> list[dict[str, Any]]:
    """What is on the control log."""
    log = open_log("sqlite://", folder=folder.path, writes=[])
    try:
        return [json.loads(record.value) for record in log.read(TOPIC, 0, 0, 100)]
    finally:
        log.close()


def test_what_is_in_force(operator: Control) -> None:
    assert operator.in_force() == InForce(version="v3.3.0", epoch=3, pinned=False, paused=False)


def test_a_rollback_is_one_message_under_the_operators_name(operator: Control, folder: StateFolder) -> None:
    assert operator.rollback(reason="bad on refunds").version == "v2.4.0"
    last = messages(folder)[-1]
    assert (last["type"], last["to_epoch"], last["reason"], last["issued_by"]) == (
        "rollback", 2, "bad on refunds", "operator/ann",
    )  # fmt: skip
    assert operator.rollback().version == "v0.5.0", "given twice it goes further back"
    with pytest.raises(ConfigError, match="no version before"):
        operator.rollback()


@pytest.mark.parametrize("to", [2, "2", "v2.2.0"])
def test_a_rollback_to_an_epoch_or_a_version(operator: Control, to: str | int) -> None:
    assert operator.rollback(to=to).version == "v2.4.0"


@pytest.mark.parametrize(
    "since", ["2026-01-31T12:00:00Z", "1769860800", 1769860800, datetime(2026, 1, 31, 12, tzinfo=UTC)]
)
def test_a_rollback_quarantines(operator: Control, folder: StateFolder, since: Any) -> None:
    operator.rollback(quarantine_source="bulk", quarantine_since=since)
    assert messages(folder)[-1]["quarantine"] == {"source": "bulk", "since": 1769860800.0}


@pytest.mark.parametrize("since", ["noon", float("nan"), float("inf"), datetime(2026, 1, 31, 12)])
def test_a_time_that_cannot_be_read_appends_nothing(operator: Control, folder: StateFolder, since: Any) -> None:
    with pytest.raises(ConfigError, match=r"not a time|no offset from UTC"):
        operator.rollback(quarantine_since=since)
    assert messages(folder)[-1]["type"] == "promote"


def test_a_refused_command_says_why_and_stays_on_the_log(operator: Control, folder: StateFolder) -> None:
    with pytest.raises(CommandRefusedError, match="Epoch 77 is not in the history") as raised:
        operator.rollback(to=77)
    assert raised.value.remedy == "Can be had: v2.2.0, v0.1.0, v0.0.0."
    assert messages(folder)[-1]["to_epoch"] == 77


def test_what_cannot_be_had_is_refused_and_not_on_the_log(operator: Control, folder: StateFolder) -> None:
    folder.registry.delete(folder.bases[1])
    with pytest.raises(ConfigError, match=r"v2\.2\.0 would come into force"):
        operator.rollback(to="v2.2.0")
    with pytest.raises(ConfigError, match="is no epoch, no version"):
        operator.rollback(to=-1)
    assert messages(folder)[-1]["type"] == "promote"


def test_deny_takes_the_first_digits_of_a_base(operator: Control, folder: StateFolder) -> None:
    assert operator.deny(folder.bases[2][:8], reason="stolen data").version == "v2.4.0"
    assert messages(folder)[-1]["sha256"] == folder.bases[2]
    with pytest.raises(ConfigError, match="no base of the history"):
        operator.deny("abc")


def test_flags_go_on_and_off(operator: Control) -> None:
    assert operator.pin().pinned
    assert operator.pause() == InForce(version="v3.3.0", epoch=3, pinned=True, paused=True)
    assert not operator.unpin().pinned
    assert not operator.resume().paused


def test_train_now_and_label_add(operator: Control, folder: StateFolder) -> None:
    operator.train_now()
    operator.label_add("Rückgabe")
    assert [m["type"] for m in messages(folder)[-2:]] == ["train_now", "label_add"]
    with pytest.raises(ConfigError, match="The command cannot be issued"):
        operator.label_add("x" * 500)


def test_a_canary_and_a_shadow_are_on_the_log_and_end(operator: Control, folder: StateFolder) -> None:
    assert operator.canary("v2.2.0", share=0.25).version == "v3.3.0", "what answers everybody else is not changed"
    operator.shadow(2)
    operator.canary(share=0)
    trial = {"base": folder.bases[1], "start_head": folder.heads[1]}
    told = [{name: m.get(name) for name in ("type", "base", "start_head", "share")} for m in messages(folder)[-3:]]
    assert told == [{"type": "canary", **trial, "share": 0.25}, {"type": "shadow", **trial, "share": 1.0},
                    {"type": "canary", **trial, "share": 0.0}]  # fmt: skip
    with pytest.raises(ConfigError, match="No trial runs"):
        operator.canary(share=0)
    with pytest.raises(ConfigError, match="which version"):
        operator.shadow()
    with pytest.raises(CommandRefusedError) as raised:
        operator.canary("v3.3.0", share=0.5)
    assert "Can be tried" in raised.value.remedy


def test_a_folder_that_was_never_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no state folder"):
        Control(tmp_path / "nowhere").pause()
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StreamFTError, match="Nothing was ever started"):
        Control(tmp_path / "empty").in_force()
    (tmp_path / "empty" / "serve.state").write_text("{}")
    with pytest.raises(StreamFTError, match="none of model default is left") as raised:
        Control(tmp_path / "empty").in_force()
    assert "bring the log back" in raised.value.remedy


def test_settings_come_from_arguments_environment_and_file(
    folder: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'state_dir = "{folder.path}"\noperator = "file"\n')
    monkeypatch.setenv("STREAM_FT_OPERATOR", "environment")
    Control(config=file).pause()
    Control(config=file, operator="argument").resume()
    assert [m["issued_by"] for m in messages(folder)[-2:]] == ["operator/environment", "operator/argument"]
    with pytest.raises(StreamFTError, match="Nothing was ever started for model other"):
        Control(folder.path, model="other").pause()
    with pytest.raises(ConfigError, match="No connector opens"):
        Control(folder.path, broker="pigeon://loft").pause()
    with pytest.raises(ConfigError, match=r"model\.name"):
        Control(folder.path, model="a b")


def test_commanding_loads_no_model_and_no_server(folder: StateFolder) -> None:
    heavy = "torch transformers onnxruntime starlette uvicorn typer"
    code = (
        "import sys; from stream_ft.client import Control; assert 'stream_ft.config' not in sys.modules; "
        f"Control({str(folder.path)!r}).pause(); print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
