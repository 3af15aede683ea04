"""Code blocks of the pages, and how their commands are made to fit where a test runs them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy" / "README.md",
    ROOT / "deploy" / "runbook.md",
    ROOT / "grafana" / "README.md",
]
RUNBOOK = ROOT / "deploy" / "runbook.md"
DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))


def name_of(page: Path) -> str:
    """A page by its path in the repository, without its ending."""
    return str(page.relative_to(ROOT).with_suffix(""))


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of each code block; the language is empty where none is named."""
    return re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE)


def inline(page: Path, pattern: str) -> list[str]:
    """What stands between backticks in the prose of a page and begins with ``pattern``, each once."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))
    return [code for code in dict.fromkeys(found) if re.match(pattern, code)]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines_of_shell(page: Path) -> list[str]:
    """Commands of a page, continuation lines joined, comments gone.

    Of the runbook, and of the panels of a dashboard, those between backticks.
    """
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".json":
        text = "\n".join(panel.get("description", "") for panel in json.loads(text)["panels"])
    if page == RUNBOOK or page.suffix == ".json":
        found = re.findall(r"`((?:stream-ft|curl|fuser|du|df) [^`]+)`", text)
        return [" ".join(command.split()) for command in found]
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def every_line(page: Path) -> list[str]:
    """Commands of a page, each once and without its comment."""
    return list(dict.fromkeys(re.sub(r"\s+#.*$", "", line) for line in lines_of_shell(page)))


def program(line: str) -> str:
    """The program that a line of shell starts, without the folder of the virtual environment."""
    return shlex.split(line, comments=True)[0].removeprefix(".venv/bin/")


def fitted(text: str, places: Mapping[str, str]) -> str:
    """``text`` with each of ``places`` put for what stands for it, the longest first and whole words only."""
    names = sorted(places, key=len, reverse=True)
    pattern = "|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in names)
    return re.sub(pattern, lambda found: places[found[0]], text) if names else text
