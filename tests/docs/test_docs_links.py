"""Links and shell commands in the README and the pages under docs/."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from stream_ft.cli import app
from stream_ft.config import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ids = [page.name for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines_of_shell(page: Path) -> list[str]:
    """Commands of a page, continuation lines joined, comments gone."""
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_shell_commands_exist(page: Path) -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in lines_of_shell(page):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert words[1] in made, line
        elif words[0].removeprefix(".venv/bin/") == "stream-ft":
            command = typer.main.get_command(app)
            rest = words[1:]
            while hasattr(command, "commands"):
                assert rest[0] in command.commands, line
                command = command.commands[rest.pop(0)]
            # Parses the whole line and runs nothing.
            command.make_context("stream-ft", rest)
        else:
            assert words[0] in ("curl", "echo", "kcat"), line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_bodies_of_curl_are_json(page: Path) -> None:
    for line in lines_of_shell(page):
        words = shlex.split(line, comments=True)
        if words[0] == "curl":
            json.loads(words[words.index("-d") + 1])


def test_the_example_of_a_settings_file_is_valid() -> None:
    (text,) = blocks(ROOT / "docs" / "configuration.md", "toml")
    Settings.model_validate(tomllib.loads(text))


def test_the_readme_opens_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md", "bash")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_names_of_packages_files_in_docs_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"`((?:docs|stream_ft|connectors|tests|deploy)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
