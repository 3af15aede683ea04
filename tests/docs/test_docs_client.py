"""Every snippet of docs/client.md runs, against a real server and a real state folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import StateFolder
from http_server import running
from serving_parts import Commanded, Serving

from stream_ft import client
from stream_ft.client import AsyncClient, Client, Control

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
URL = '"http://127.0.0.1:8080"'
FOLDER = '"./state"'


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Commanded(tmp_path / "serving") as made:
        made.genesis("delivery_status", "refund_status")
        for name in ("better", "best"):
            made.promote(name, "delivery_status", "refund_status", name)
            made.follower.step()
        yield made


def methods(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")} - {"close"}


def test_docs_have_snippets_of_both_kinds() -> None:
    assert len(SNIPPETS) == PAGE.count("```python") >= 7
    assert all((URL in snippet) != (FOLDER in snippet) for snippet in SNIPPETS)


@pytest.mark.parametrize("number", [n for n, snippet in enumerate(SNIPPETS) if URL in snippet])
def test_a_snippet_that_talks_to_a_server_runs(serving: Serving, number: int) -> None:
    with running(serving.app) as url:
        exec(compile(SNIPPETS[number].replace(URL, repr(url)), f"client.md, snippet {number}", "exec"), {})
    assert serving.written("predictions") or serving.written("labels")


def test_the_snippet_of_the_errors_sends_again_under_the_same_id(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = (snippet for snippet in SNIPPETS if "error.ids" in snippet)
    real = Client.feedback

    def failing(
        self: Client, prediction_id: str, *, label: str, id: str = "", deadline_s: float | None = None
    ) -> object:
        taken = real(self, prediction_id, label=label, id=id or "first", deadline_s=deadline_s)
        if not id:
            raise client.DeadlineError("The answer was lost.", ids=taken.ids)
        return taken

    monkeypatch.setattr(Client, "feedback", failing)
    with running(serving.app) as url:
        exec(snippet.replace(URL, repr(url)), {})
    first, again = serving.written("feedback")
    assert first == again


def test_the_snippet_that_commands_over_http_commands(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = (snippet for snippet in SNIPPETS if "client.control" in snippet)
    with running(serving.app) as url:
        exec(snippet.replace(URL, repr(url)), {})
    _, back = capsys.readouterr().out.splitlines()
    assert back == "v1.3.0 3"
    assert serving.follower.state.trial is None


def test_the_snippet_that_commands_by_the_folder_runs(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.genesis()
    folder.promote(1)
    (snippet,) = (snippet for snippet in SNIPPETS if FOLDER in snippet)
    exec(snippet.replace(FOLDER, repr(str(folder.path))), {})
    assert Control(folder.path).in_force().version == "v0.3.0"


def test_docs_name_every_method_and_everything_public() -> None:
    assert methods(Client) == methods(AsyncClient)
    for name in methods(Client) | methods(Control) | set(client.__all__):
        assert re.search(rf"`{name}\b|\b{name}\(", PAGE), name
