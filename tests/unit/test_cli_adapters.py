"""``stream-ft adapters``: what is listed, and what is said of what is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Done, StateFolder, command

Run = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """Epochs 0 (genesis), 1 (lead), 2 and 3 (promotions)."""
    state = StateFolder(tmp_path / "state")
    state.genesis()
    state.promote(1)
    state.promote(2)
    return state


@pytest.fixture
def run(folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``stream-ft WORDS`` on that folder."""
    return lambda *words: command(capsys, monkeypatch, *words, "--state-dir", folder.path)


def test_list_has_every_version_newest_first(run: Run) -> None:
    rows = [json.loads(line) for line in run("adapters", "list", "--json").out.splitlines()]
    assert [row["version"] for row in rows] == ["v3.3.0", "v2.2.0", "v0.1.0", "v0.0.0"]
    assert [row["state"] for row in rows] == ["active", "past", "past", "past"]
    assert [row["kind"] for row in rows] == ["lora", "lora", "genesis", "genesis"]


def test_list_for_people_has_the_gates_numbers(run: Run) -> None:
    lines = run("adapters", "list").out.splitlines()
    assert len(lines) == 5
    assert "+0.050, +0.010" in lines[1]
    assert "genesis" in lines[4]


def test_list_shows_what_is_denied_gone_or_damaged(run: Run, folder: StateFolder) -> None:
    run("control", "rollback")
    folder.registry.delete_head(folder.heads[0])
    head = folder.registry.head_path(folder.heads[1])
    head.chmod(0o644)
    head.write_bytes(head.read_bytes()[:-1])
    rows = [json.loads(line) for line in run("adapters", "list", "--json").out.splitlines()]
    assert [row["state"] for row in rows] == ["damaged", "denied", "damaged", "gone", "gone"]


@pytest.mark.parametrize("name", ["v2.2.0", "2", "previous"])
def test_show_one_version(run: Run, folder: StateFolder, name: str) -> None:
    row = json.loads(run("adapters", "show", name, "--json").out)
    assert (row["version"], row["train_examples"]) == ("v2.2.0", 100)
    assert row["verdict"] == {"difference": 0.05, "lower_bound": 0.01}
    assert list(row["files"]) == ["base.json"]


def test_show_is_of_the_active_one_unless_told(run: Run) -> None:
    text = run("adapters", "show").out
    assert "version: v3.3.0" in text
    assert "  lower_bound: 0.01" in text


@pytest.mark.parametrize("name", ["v8.8.0", "99", "x"])
def test_show_of_what_is_not_there(run: Run, name: str) -> None:
    done = run("adapters", "show", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("stream-ft: ")
