"""The dashboards and alerts: made by the code, of metrics that exist, in words that say what to do."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from stream_ft.cli import app
from stream_ft.config import Settings, flatten
from stream_ft.metrics import LearnMetrics, ServeMetrics, new_registry
from stream_ft.metrics.ingest import IngestMetrics

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text("utf-8")) for path in FILES}
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0][
    "rules"
]
RUNBOOK = (ROOT / "deploy" / "runbook.md").read_text("utf-8")
METRIC = re.compile(r"\b(?:stream_ft|process)_\w+")
OURS = re.compile(r"`([a-z]+\.[a-z_]+)(?: = [^`]*)?`")
COMMAND = re.compile(r"`stream-ft ([^`]*)`")
TYPED = re.compile(r"`((?:stream-ft|curl|docker|kubectl|df|fuser|kill) [^`]+)`")
"""What can be typed as it stands, but for words in capitals."""
VERBS = "add|bring|compare|correct|end|look|lower|make|move|publish|raise|read|restart|restore|roll|see|send|set|start"
ACTION = re.compile(rf"`[^`]+`|\*[^*]+\*|(?:[.:;,]|\bor|\band|\bthen) (?:then )?(?:{VERBS})\b", re.IGNORECASE)
"""A command or a setting, a name in italics, or a clause that begins with what to do."""


def sections() -> dict[str, str]:
    """Entries of the runbook, by alert."""
    return dict(zip(*[iter(re.split(r"^## (.+)$", RUNBOOK, flags=re.M)[1:])] * 2, strict=True))


def parts(entry: str) -> dict[str, str]:
    """`Means`, `Look` and `Type` of an entry of the runbook, white space made one."""
    found = re.split(r"^\*\*(\w+):\*\*", entry, flags=re.M)[1:]
    return {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}


def messages(source: str) -> list[str]:
    """Texts in a program, each in one piece, with ``{}`` for what is put in; docstrings are none."""
    tree = ast.parse(source)
    no_message: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            no_message.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            no_message |= {id(part) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in no_message:
            found.append(node.value)
    return found


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


PANELS = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
EXPRESSIONS = [target["expr"] for _, panel in PANELS for target in panel["targets"]]


def samples() -> set[str]:
    """Names that a scrape can return."""
    names = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
    for series in (ServeMetrics(new_registry()), LearnMetrics(new_registry()), IngestMetrics(new_registry())):
        for family in series.registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names


def test_the_files_are_what_the_code_makes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "grafana" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_five_dashboards_that_link_to_each_other() -> None:
    assert sorted(BOARDS) == ["overview", "quality", "serving", "streaming", "training"]
    for name, board in BOARDS.items():
        assert board["uid"] == f"stream-ft-{name}"
        variables = board["templating"]["list"]
        assert [(v["name"], v["type"]) for v in variables] == [("datasource", "datasource"), ("model", "query")]
        assert {a["name"] for a in board["annotations"]["list"]} == {"Promotions", "Rollbacks"}
        for annotation in board["annotations"]["list"]:
            assert "increase(" in annotation["expr"], "a counter that begins anew is no promotion"
        assert "stream_ft" in board["tags"]
        assert board["links"][0]["tags"] == ["stream_ft"]
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)


def test_panels_are_where_they_can_be_seen() -> None:
    for name, board in BOARDS.items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, (name, panel["title"])
            assert max(x for x, _ in cells) < 24
            taken |= cells


def test_there_are_enough_panels_and_each_says_what_to_do() -> None:
    assert len(PANELS) >= 30
    for name, panel in PANELS:
        defaults = panel["fieldConfig"]["defaults"]
        said = panel["description"]
        assert defaults["unit"], (name, panel["title"])
        assert len(said) > 60, (name, panel["title"])
        steps = defaults["thresholds"]["steps"]
        red = any(step["color"] == "red" for step in steps)
        assert red == ("Red: " in said), (name, panel["title"], said)
        assert red or "No single number is bad" in said, (name, panel["title"])
        if red:
            assert ACTION.search(said.partition("Red: ")[2]), (name, panel["title"], said)
        assert panel["targets"]
        assert [t["refId"] for t in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])


@pytest.mark.parametrize("expr", [*EXPRESSIONS, *(rule["expr"] for rule in RULES)])
def test_queries_are_of_metrics_that_exist_and_make_no_rows_up(expr: str) -> None:
    used = set(METRIC.findall(re.sub(r"\{[^}]*\}", "", expr)))
    assert used or "up{" in expr
    assert used <= samples()
    assert "vector(" not in expr
    assert "absent(" not in expr


def test_every_query_of_a_panel_selects_the_model() -> None:
    for expr in EXPRESSIONS:
        assert len(re.findall(r'\{model=~"\$model"', expr)) == len(
            re.findall(r"\b(?:stream_ft_\w+|process_\w+|up)\b", expr)
        ), expr


def test_what_is_typed_exists() -> None:
    """Commands and settings that panels and the runbook name."""
    root: Any = get_command(app)
    settings = set(flatten(Settings().model_dump()))
    texts = [panel["description"] for _, panel in PANELS] + [RUNBOOK]
    commands = [line for text in texts for line in COMMAND.findall(text)]
    assert len(commands) > 30
    for line in commands:
        words, command = line.split(), root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not root, line
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in known, line
    for text in texts:
        for name in OURS.findall(text):
            assert name in settings or name.endswith((".db", ".txt", ".yml")), name


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) >= 9
    entries = sections()
    assert list(entries) == names
    for rule in RULES:
        assert list(parts(entries[rule["alert"]])) == ["Means", "Look", "Type"], rule["alert"]
        assert rule["annotations"]["runbook"] == f"deploy/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "warn")


@pytest.mark.parametrize("alert", sections())
def test_an_entry_of_the_runbook_says_what_to_type(alert: str) -> None:
    text = parts(sections()[alert])["Type"]
    commands = TYPED.findall(text)
    assert set(commands) - {"stream-ft reset"}, "a command that does not throw everything away"
    # What is started again or scaled is a container as often as a process.
    if re.search(r"\brestart the\b|\bstart another\b", text):
        for program in ("docker compose ", "kubectl "):
            assert any(command.startswith(program) for command in commands), program


def test_messages_that_the_runbook_quotes_are_those_of_the_program() -> None:
    """Each from its beginning; words in capitals stand for what the program puts in."""
    said = [
        message
        for folder in ("stream_ft", "connectors")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for message in messages(path.read_text("utf-8"))
    ]
    quoted = [
        phrase
        for entry in sections().values()
        for name, text in parts(entry).items()
        if name in ("Look", "Type")
        for phrase in re.findall(r'"([^"]+)"', re.sub(r"`[^`]*`", "", text))
    ]
    assert len(quoted) > 5
    for phrase in quoted:
        wanted = re.compile(re.sub(r"'?\b(?:[A-Z]{2,}|N)\b'?", ".+?", re.escape(phrase).replace("\\ ", " ")))
        assert any(wanted.match(message) for message in said), phrase


def test_a_quotation_that_the_program_never_prints_is_seen() -> None:
    source = '"""The topic was removed."""\nraise E(f"The topic {name!r} was " "deleted.", "Restore it.")'
    assert sorted(messages(source)) == ["Restore it.", "The topic {} was deleted."]


def test_provisioning_points_at_what_is_there() -> None:
    folder = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text("utf-8"))["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "stream_ft.yaml").read_text("utf-8"))["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert provider["type"] == "file"
    assert provider["options"]["path"] in (ROOT / "grafana" / "README.md").read_text("utf-8")
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job["static_configs"] for job in config["scrape_configs"]}
    assert list(jobs) == ["stream-ft-serve", "stream-ft-learn"]
    default = Settings()
    for job, port in (("stream-ft-serve", default.serve.port), ("stream-ft-learn", default.learn.port)):
        assert jobs[job][0]["targets"] == [f"127.0.0.1:{port}"]
        assert jobs[job][0]["labels"] == {"model": default.model.name}
