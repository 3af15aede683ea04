"""Every command and option is in docs/commands.md, and what is there exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from stream_ft.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
TOP = PAGE.partition("\n## ")[0]


def commands(command: Any, path: tuple[str, ...] = ("stream-ft",)) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, child in inner.items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def section(name: str) -> str:
    """The part of the page under the heading of a command."""
    found = re.search(rf"^### `{re.escape(name)}`$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/commands.md has no heading for {name}"
    return found[1]


def options(command: Any) -> set[str]:
    """Long options of a command."""
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")} - {"--help"}


def test_docs_name_every_command_of_the_contract() -> None:
    operator = (
        "rollback",
        "pin",
        "unpin",
        "pause",
        "resume",
        "train-now",
        "deny",
        "label-add",
        "canary",
        "shadow",
        "explain",
    )
    wanted = {f"stream-ft control {name}" for name in operator}
    wanted |= {
        f"stream-ft {name}"
        for name in ("up", "serve", "learn", "ingest", "demo", "simulate", "replay", "status", "doctor")
    }
    wanted |= {"stream-ft adapters list", "stream-ft adapters show", "stream-ft config show", "stream-ft reset"}
    assert wanted == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_docs_have_every_option(name: str) -> None:
    text = section(name)
    # The operator's commands share three options, which the chapter's introduction names.
    if name.startswith("stream-ft control ") and name != "stream-ft control explain":
        text += "--config --state-dir --set"
    missing = {option for option in options(COMMANDS[name]) if not re.search(rf"{option}(?![\w-])", text)}
    assert not missing


@pytest.mark.parametrize("name", COMMANDS)
def test_docs_invent_no_option(name: str) -> None:
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section(name)))
    assert mentioned <= options(COMMANDS[name])


def test_docs_have_no_heading_of_a_command_that_is_gone() -> None:
    assert set(re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_of_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help.rstrip().endswith(".")
    assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help")
