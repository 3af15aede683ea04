"""Links and shell commands in the README, the pages under docs/ and deploy/, and the notebook."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from docs_page import PAGES, ROOT, blocks, lines_of_shell, name_of

from stream_ft.cli import app

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
ids = [name_of(page) for page in PAGES]
HERE = ("curl", "df", "du", "echo", "fuser", "kcat")
"""Programs besides our own that a page may use."""
DEPLOYING = {
    "deploy/README.md": ("cd", "cp", "docker", "kubectl"),
    "docs/learning.md": (".venv/bin/python",),
    "docs/publish.md": (".venv/bin/pip",),
    "grafana/README.md": (".venv/bin/python", "cd", "npm"),
}
"""On one page each; tests/docs/test_docs_programs.py has what comes of them."""


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def prose(page: Path) -> str:
    """What is written on a page or in a notebook, without its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
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
            assert words[0] in (*HERE, *DEPLOYING.get(str(page.relative_to(ROOT)), ())), line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_bodies_of_curl_are_json(page: Path) -> None:
    for line in lines_of_shell(page):
        words = shlex.split(line, comments=True)
        if words[0] == "curl" and "-d" in words:
            json.loads(words[words.index("-d") + 1])


def test_the_readme_opens_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md", "bash")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_names_of_packages_files_in_docs_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"`((?:docs|stream_ft|connectors|tests|deploy)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_index_links_every_page() -> None:
    folder = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)\s#]+)\)", (folder / "README.md").read_text(encoding="utf-8")))
    there = {str(path.relative_to(folder)) for path in [*folder.glob("*.md"), *NOTEBOOKS]} - {"README.md"}
    assert there - linked == set()
