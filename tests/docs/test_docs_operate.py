"""Each command that the docs, the runbook and the panels of the dashboards tell an operator to type is typed."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Done, StateFolder, command
from docs_page import DASHBOARDS, ROOT, RUNBOOK, fitted, lines_of_shell, name_of, program
from http_server import running
from serving_parts import Serving

WHOLE = [ROOT / "docs" / "operate.md", ROOT / "docs" / "quick-start.md"]
"""Every block of these is typed against running processes, in the test below."""
BY_WHOLE = "tests/integration/test_docs_typed.py"
TYPED = [
    ROOT / "README.md",
    *WHOLE,
    *(ROOT / "docs" / f"{name}.md" for name in ("commands", "publish", "serving")),
    RUNBOOK,
    *DASHBOARDS,
]
ELSEWHERE = {
    "demo": "tests/integration/test_demo.py",
    "up": BY_WHOLE,
    "replay": BY_WHOLE,
    "simulate": BY_WHOLE,
    "doctor": BY_WHOLE,
    "reset": "tests/unit/test_cli_state.py",
}
"""Commands that run for long, need processes or ask a question, and the test that types them."""
LINES = [(page, line) for page in TYPED for line in dict.fromkeys(lines_of_shell(page))]
OURS = [(page, line) for page, line in LINES if program(line) == "stream-ft" and shlex.split(line)[1] not in ELSEWHERE]
CURLS = [(page, line) for page, line in LINES if program(line) == "curl" and "LEARN" not in line and "8081" not in line]


def ident(one: tuple[Path, str]) -> str:
    return f"{name_of(one[0])}: {one[1][:60]}"


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """Three bases were promoted after the first."""
    state = StateFolder(tmp_path / "state")
    state.genesis()
    for epoch in (1, 2, 3):
        state.promote(epoch)
    return state


@pytest.fixture
def run(
    folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    def typed(line: str) -> Done:
        places = {
            "EPOCH": "2",
            "LABEL": "refund_status",
            "NAME": "bulk-import",
            "SHA256": folder.bases[-1][:8],
            "SOURCE": "bulk-import",
            "TIME": "2026-01-31T12:00:00Z",
            "./quick-start": str(folder.path),
            "v3.7.0": "previous",
        }
        words = shlex.split(fitted(line, places), comments=True)[1:]
        more = () if "--state-dir" in words else ("--state-dir", folder.path)
        return command(capsys, monkeypatch, *words, *more)

    return typed


@pytest.mark.parametrize("one", OURS, ids=ident)
def test_a_command_of_an_operator_does_what_it_is_for(
    one: tuple[Path, str], run: Callable[..., Done], folder: StateFolder
) -> None:
    def told() -> dict[str, object]:
        return dict(json.loads(run("stream-ft status --json").out))

    if "--share 0 " in one[1] + " ":
        run("stream-ft control canary previous --share 0.1")
    before = told()
    done = run(one[1])
    assert done.code == 0, done.err
    words = shlex.split(one[1])[1:]
    if words[:2] == ["control", "rollback"]:
        assert told()["version"] != before["version"]
    elif words[:2] == ["control", "deny"]:
        assert folder.bases[-1] not in str(told()["base"])
    elif words[:2] in (["control", "pin"], ["control", "pause"]):
        assert told()["paused" if words[1] == "pause" else "pinned"]
    else:
        assert done.out.strip()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path / "serving") as made:
        made.genesis("order_status", "refund_status")
        yield made


@pytest.mark.parametrize("one", CURLS, ids=ident)
def test_a_request_of_the_pages_is_answered(one: tuple[Path, str], serving: Serving, tmp_path: Path) -> None:
    with running(serving.app) as url:
        ident = serving.post("/predict", json={"inputs": ["hello"]}).json()["predictions"][0]["id"]
        host = url.removeprefix("http://")
        places = {"localhost:8080": host, "HOST:PORT": host, "p-...": ident, "ID": ident, "default": "shop"}
        typed = fitted(one[1], places).replace("curl ", "curl --fail-with-body -sS ", 1)
        (tmp_path / "feedback.json").write_text(json.dumps({"prediction_id": ident, "kind": "accept"}), "utf-8")
        done = subprocess.run(
            ["bash", "-c", typed], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_typed_here_is_typed_elsewhere() -> None:
    whole = {shlex.split(line)[1] for page in WHOLE for line in lines_of_shell(page) if program(line) == "stream-ft"}
    for name, path in ELSEWHERE.items():
        there = name in whole if path == BY_WHOLE else f'"{name}"' in (ROOT / path).read_text(encoding="utf-8")
        assert there, f"{path} does not type {name}"
    programs = {program(line) for _, line in LINES}
    assert programs == {"stream-ft", "curl", "make"}
