"""Each command that the docs, the runbook and the panels of the dashboards tell an operator to type is typed."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import Done, StateFolder, command
from docs_page import DASHBOARDS, PAGES, ROOT, every_line, fitted, name_of, program
from http_server import running
from serving_parts import Serving

from stream_ft import metrics
from stream_ft.wiring.probes import ProbeServer

FIRST_EVENT = ROOT / "docs" / "first-event.md"
"""Has a test of its own: tests/docs/test_docs_first_event.py."""
DEPLOYING = ROOT / "deploy" / "README.md"
WHOLE = [ROOT / "docs" / "operate.md", ROOT / "docs" / "quick-start.md"]
"""Every block of these is typed against running processes, in the test below."""
TYPED_THERE = "tests/integration/test_docs_typed.py::"
PROGRAMS = "tests/docs/test_docs_programs.py::"
STARTED = TYPED_THERE + "test_what_starts_the_system_starts_it"
SIMULATED = TYPED_THERE + "test_a_simulation_of_the_reader_s_own_file"
MADE = PROGRAMS + "test_make_knows_what_it_is_asked_for"
BEGUN = PROGRAMS + "test_the_files_that_deploying_begins_with_are_there"
APPLIED = PROGRAMS + "test_what_is_applied_is_made_of_objects"
LOOKED = PROGRAMS + "test_what_looks_at_the_state_folder_finds_it"
BUILT = PROGRAMS + "test_images_are_built_from_files_that_are_there_and_pushed_under_their_names"
LABELLED = PROGRAMS + "test_namespaces_get_the_labels_that_the_policies_ask_for"
FROM_OUTSIDE = PROGRAMS + "test_a_process_that_is_not_ready_says_why_when_asked_from_outside"
NAMED = PROGRAMS + "test_containers_and_objects_that_commands_name_are_there"
BOARDS = PROGRAMS + "test_the_dashboards_are_made_as_the_page_says"
PREVIEW = "tests/integration/test_operations.py::test_the_preview_draws_every_panel"
ROLES = ("serve", "learn", "ingest")
(ASKED,) = [line for line in every_line(DEPLOYING) if line.startswith("docker compose exec learn python -c ")]
MEASURED = PROGRAMS + "test_a_benchmark_is_there_and_accepts_its_arguments"
ELSEWHERE = {
    "make demo": "tests/integration/test_demo.py::test_the_demo_shows_what_it_promises",
    "make test": MADE,
    "make test-slow": MADE,
    "make lint": MADE,
    # Several minutes on another file than the demo's own; here, that the program is told all of it.
    ".venv/bin/stream-ft demo --data messages.csv": "tests/unit/test_cli_commands.py::test_the_demo_is_told_everything",
    ".venv/bin/stream-ft up": STARTED,
    "stream-ft up": STARTED,
    "stream-ft up --port 8080 --state-dir ./state": STARTED,
    ".venv/bin/stream-ft simulate messages.csv --text-column text --label-column category --out tried": SIMULATED,
    "stream-ft simulate messages.csv --text-column text --label-column category --order shuffle --out tried": SIMULATED,
    "stream-ft reset": "tests/unit/test_cli_state.py::test_reset_asks_on_a_terminal",
    "fuser STATE/store.db": LOOKED,
    "du -sh STATE/*": LOOKED,
    "df -h STATE": LOOKED,
    ".venv/bin/pip install -e '.[ingest]'": PROGRAMS + "test_pip_takes_the_line",
    ".venv/bin/pip install --no-deps faust-streaming==0.15.3": PROGRAMS + "test_pip_takes_the_line",
    ".venv/bin/python benchmarks/learning.py --streams stationary,rename,phased,jargon --out learning.json": MEASURED,
    ".venv/bin/python benchmarks/live.py --out live.json": MEASURED,
    "cd deploy": BEGUN,
    "cp env.example .env": BEGUN,
    "docker compose up --build -d": BEGUN,  # what it names is there; the page says that it was not run
    "docker compose --profile traffic up replayer": BEGUN,  # likewise
    "kubectl apply -f kubernetes/base/namespace.yaml": APPLIED,
    "kubectl apply -f my-secrets.yaml": APPLIED,
    "kubectl apply -k kubernetes/overlays/mine": APPLIED,
    **{f"docker build -f docker/{role}.Dockerfile -t REGISTRY/stream-ft/{role}:0.1.0 ..": BUILT for role in ROLES},
    **{f"docker push REGISTRY/stream-ft/{role}:0.1.0": BUILT for role in ROLES},
    "kubectl label namespace ingress-nginx stream-ft.io/asks=true": LABELLED,
    "kubectl label namespace monitoring stream-ft.io/scrapes=true": LABELLED,
    "kubectl label namespace kafka stream-ft.io/broker=true": LABELLED,
    "kubectl -n stream-ft get pods": NAMED,
    "kubectl -n stream-ft port-forward learn-0 8081": NAMED,
    ASKED: FROM_OUTSIDE,
    "curl -s http://127.0.0.1:8081/readyz": FROM_OUTSIDE,
    "stream-ft ingest": "tests/integration/test_ingest_worker.py::"
    "test_a_backlog_is_drained_and_what_is_refused_is_kept",
    ".venv/bin/python grafana/generate.py": BOARDS,
    ".venv/bin/python grafana/generate.py --check": BOARDS,
    "cd grafana/preview": PREVIEW,
    "npm ci --ignore-scripts": PREVIEW,
    "npm run build": PREVIEW,
    "npm start": PROGRAMS + "test_the_preview_is_served",
}
"""Whole lines that run for long, need processes or ask a question, and the test that types them, or what it can."""
THERE = {
    line
    for page in WHOLE
    for line in every_line(page)
    if program(line) == "stream-ft" and shlex.split(line)[1] in ("up", "replay", "simulate", "doctor")
}
"""Whole lines that need processes, and are typed with their pages."""
LINES = [
    (page, line)
    for page in [*PAGES, *DASHBOARDS]
    if page != FIRST_EVENT
    for line in every_line(page)
    if line not in ELSEWHERE and line not in THERE
]
OURS = [(page, line) for page, line in LINES if program(line) == "stream-ft"]
CURLS = [(page, line) for page, line in LINES if program(line) == "curl" and "8081" not in line]


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


@contextmanager
def probes() -> Iterator[str]:
    """The learner's own port."""
    server = ProbeServer("127.0.0.1", 0, metrics.new_registry(), lambda: (True, ""))
    server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.stop()


@pytest.mark.parametrize("one", CURLS, ids=ident)
def test_a_request_of_the_pages_is_answered(one: tuple[Path, str], serving: Serving, tmp_path: Path) -> None:
    with running(serving.app) as url, probes() as learner:
        ident = serving.post("/predict", json={"inputs": ["hello"]}).json()["predictions"][0]["id"]
        host = url.removeprefix("http://")
        places = {"localhost:8080": host, "HOST:PORT": host, "HOST:LEARN": learner}
        places |= {"p-...": ident, "ID": ident, "default": "shop"}
        typed = fitted(one[1], places).replace("curl ", "curl --fail-with-body -sS ", 1)
        (tmp_path / "feedback.json").write_text(json.dumps({"prediction_id": ident, "kind": "accept"}), "utf-8")
        done = subprocess.run(
            ["bash", "-c", typed], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_typed_here_is_typed_elsewhere() -> None:
    """A line that nothing types fails here, and so does one that was typed and is gone from the pages."""
    written = {line for page in [*PAGES, *DASHBOARDS] for line in every_line(page)}
    assert ELSEWHERE.keys() - written == set()
    for place in set(ELSEWHERE.values()):
        path, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), place
    for page, line in LINES:
        assert (page, line) in OURS or (page, line) in CURLS or page in WHOLE, f"{name_of(page)}: no test types {line}"
