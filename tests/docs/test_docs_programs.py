"""Commands of the docs that are not ours: typed where their program is, and of the rest what can be known without."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from command_line import StateFolder, command
from docs_page import PAGES, ROOT, RUNBOOK, every_line, fences, fitted, inline, lines_of_shell, name_of, program
from house import wait_for
from http_server import listener
from packaging.requirements import Requirement

from stream_ft import metrics
from stream_ft.config import Settings
from stream_ft.wiring.probes import ProbeServer

PAGE_OF_DEPLOY = ROOT / "deploy" / "README.md"
SHELLS = ("bash", "python", "json", "toml")
"""Languages of fences whose contents some test types or parses."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BENCHMARKS = sorted(
    {line for page in PAGES for line in (*every_line(page), *inline(page, r"benchmarks/\w+\.py(?: |$)"))
     if "benchmarks/" in line}
)  # fmt: skip
INSTALLS = sorted({line for page in PAGES for line in (*every_line(page), *inline(page, r"(?:\.venv/bin/)?pip "))
                   if program(line) == "pip"})  # fmt: skip
PARSES = """
import argparse, runpy, sys
real = argparse.ArgumentParser.parse_args
def parse_args(self, *rest):
    real(self, *rest)
    print("accepted")
    sys.exit(0)
argparse.ArgumentParser.parse_args = parse_args
sys.argv = sys.argv[1:]
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script until its parser has accepted the arguments."""


def typed(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type a line into a shell in a folder.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        ["bash", "-ec", text], cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


# --- fences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_has_a_language_and_no_command_stands_in_one_of_text(page: Path) -> None:
    for language, text in fences(page):
        assert language in (*SHELLS, "text"), f"{language!r} before: {text[:60]}"
        if language != "text":
            continue
        for line in text.splitlines():
            first = line.split()[0] if line.split() else ""
            assert "/" not in first, f"{line}: a command is in a fence of bash, where tests see it"
            assert not first or shutil.which(first) is None, line
            assert first.removeprefix(".venv/bin/") not in ("stream-ft", "pip", "npm", "kubectl", "docker"), line


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, text) for page in PAGES for language, text in fences(page) if language == "toml"],
    ids=lambda part: name_of(part) if isinstance(part, Path) else part[:20],
)
def test_settings_in_a_fence_are_valid(page: Path, text: str) -> None:
    Settings.model_validate(tomllib.loads(text))


# --- make, pip, benchmarks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", sorted({x for page in PAGES for x in every_line(page) if program(x) == "make"}))
def test_make_knows_what_it_is_asked_for(line: str) -> None:
    """And all that it would do; to do it here would be to run these tests from within."""
    done = typed(line.replace("make", "make -n", 1), ROOT)
    scripts = re.findall(r"\bbash (\S+)", done.stdout)
    assert scripts[0] == "deploy/setup.sh"
    assert all((ROOT / script).exists() for script in scripts)
    for module in re.findall(r"python -m (\w+)", done.stdout):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("line", INSTALLS)
def test_what_pip_is_told_to_install_exists(line: str) -> None:
    words = shlex.split(line)
    for word in words[words.index("install") + 1 :]:
        if word.startswith("-"):
            continue
        if found := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(found[1].split(",")) <= set(PROJECT["optional-dependencies"]), word
            assert words[words.index(word) - 1] == "-e", "as make setup has it"
        else:
            assert Requirement(word).name != PROJECT["name"], "this package is not published"


def test_no_page_and_no_error_names_a_package_that_is_not_published() -> None:
    assert len(INSTALLS) >= 3
    sources = [*PAGES, *(ROOT / "stream_ft").rglob("*.py"), *(ROOT / "connectors").rglob("*.py")]
    for path in sources:
        assert not re.search(r"stream-ft\[|pip install stream[-_]ft", path.read_text("utf-8")), path


@pytest.mark.slow
@pytest.mark.parametrize("line", INSTALLS)
def test_pip_takes_the_line(line: str, tmp_path: Path) -> None:
    """On a copy, without a network, and installing nothing: whether what it wants fits what is here."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stream_ft", "connectors"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["pip install", "--dry-run --no-index --no-build-isolation"]
    text = line.replace(".venv/bin/pip install", f"{shlex.quote(sys.executable)} -m {' '.join(words)}")
    assert text != line
    typed(text, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("line", BENCHMARKS)
def test_a_benchmark_is_there_and_accepts_its_arguments(line: str) -> None:
    words = shlex.split(fitted(line, {"FILE": "out.json", "N": "3"}), comments=True)
    script = next(word for word in words if word.startswith("benchmarks/"))
    assert (ROOT / script).exists()
    arguments = words[words.index(script) :]
    done = subprocess.run(
        [sys.executable, "-c", PARSES, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if words[-1] == script and "required" in done.stderr:
        return  # the page names the script, and a file to write to is wanted with it
    assert done.stdout.endswith("accepted\n"), done.stderr[-2000:]


# --- the runbook's, and those of a back-up -----------------------------------------------------------------------


@pytest.mark.parametrize("line", [line for line in lines_of_shell(RUNBOOK) if program(line) in ("du", "df", "fuser")])
def test_what_looks_at_the_state_folder_finds_it(line: str, tmp_path: Path) -> None:
    if shutil.which(program(line)) is None:
        pytest.skip(f"{program(line)} is not installed")
    state = tmp_path / "state"
    state.mkdir()
    connection = sqlite3.connect(state / "store.db")  # as the process that holds it
    connection.execute("CREATE TABLE one (x)")
    done = typed(fitted(line, {"STATE": str(state)}), tmp_path)
    connection.close()
    wanted = {"du": "store.db", "df": "%", "fuser": str(os.getpid())}[program(line)]
    assert wanted in done.stdout, done.stdout + done.stderr


def test_a_database_is_backed_up_as_the_page_says(tmp_path: Path) -> None:
    (line,) = inline(ROOT / "docs" / "reliability.md", "sqlite3 ")
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed")
    StateFolder(tmp_path / "state").genesis()
    file, copy = tmp_path / "state" / "control.db", tmp_path / "copy.db"
    typed(fitted(line, {"FILE": str(file), "COPY": str(copy)}), tmp_path)

    def content(path: Path) -> list[Any]:
        with sqlite3.connect(path) as connection:
            return list(connection.iterdump())

    assert len(content(copy)) > 3
    assert content(copy) == content(file)


# --- deploy ------------------------------------------------------------------------------------------------------


def test_the_files_that_deploying_begins_with_are_there(tmp_path: Path) -> None:
    lines = lines_of_shell(PAGE_OF_DEPLOY)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    typed("\n".join(line for line in lines if program(line) in ("cd", "cp")), tmp_path)
    assert (tmp_path / "deploy" / ".env").read_text("utf-8") == (ROOT / "deploy" / "env.example").read_text("utf-8")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[:2] == ["docker", "compose"] and "--profile" in words:
            assert words[words.index("--profile") + 1] in services[words[-1]]["profiles"]
        for flag in ("-f", "-k"):
            if words[0] == "kubectl" and flag in words:
                named = words[words.index(flag) + 1]
                named = named.replace("my-secrets.yaml", "kubernetes/secrets.example.yaml")
                assert (tmp_path / "deploy" / named).exists() or named == "kubernetes/overlays/mine", named


def own_overlay(folder: Path) -> Path:
    """A copy of ``deploy/kubernetes`` with the reader's own overlay as the page has it."""
    ((_, text),) = [one for one in fences(PAGE_OF_DEPLOY) if one[0] == "text"]
    shutil.copytree(ROOT / "deploy" / "kubernetes", folder / "kubernetes")
    mine = folder / "kubernetes" / "overlays" / "mine"
    mine.mkdir()
    places = {"REGISTRY": "registry.example", "BROKER": "broker.example"}
    (mine / "kustomization.yaml").write_text(fitted(text, places), "utf-8")
    return folder


@pytest.mark.parametrize("line", [line for line in lines_of_shell(PAGE_OF_DEPLOY) if line.startswith("kubectl apply")])
def test_what_is_applied_is_made_of_objects(line: str, tmp_path: Path) -> None:
    """Whether a cluster takes them, only a cluster says; the page says that none was there."""
    words = shlex.split(line, comments=True)
    if words[-2] == "-k":
        if shutil.which("kubectl") is None:
            pytest.skip("kubectl is not installed")
        text = typed(f"kubectl kustomize {words[-1]}", own_overlay(tmp_path)).stdout
    else:
        named = words[-1].replace("my-secrets.yaml", "kubernetes/secrets.example.yaml")
        text = (ROOT / "deploy" / named).read_text("utf-8")
    made = [one for one in yaml.safe_load_all(text) if one]
    assert made
    assert all(one["kind"] and one["metadata"]["name"] for one in made)
    if words[-2] == "-k":
        images = set(re.findall(r"^ *-? *image: (\S+)$", text, re.MULTILINE))
        assert images == {f"registry.example/stream-ft/{role}:0.1.0" for role in ("serve", "learn", "ingest")}
        assert re.findall(r"STREAM_FT_BROKER: (\S+)", text) == ["kafka://broker.example:9093"]


def test_images_are_built_from_files_that_are_there_and_pushed_under_their_names() -> None:
    lines = [shlex.split(line, comments=True) for line in lines_of_shell(PAGE_OF_DEPLOY)]
    built = {words[5]: words for words in lines if words[:2] == ["docker", "build"]}
    assert len(built) == 3
    for tag, (_, _, f, file, t, _, context) in built.items():
        assert (f, t) == ("-f", "-t")
        assert tag == f"REGISTRY/stream-ft/{Path(file).stem}:0.1.0"
        assert (ROOT / "deploy" / file).exists()
        assert (ROOT / "deploy" / context / "pyproject.toml").exists()
    assert [words[2] for words in lines if words[:2] == ["docker", "push"]] == list(built)


def test_namespaces_get_the_labels_that_the_policies_ask_for() -> None:
    lines = [shlex.split(line, comments=True) for line in lines_of_shell(PAGE_OF_DEPLOY)]
    given = {tuple(words[4].split("=")) for words in lines if words[:3] == ["kubectl", "label", "namespace"]}
    policies = (ROOT / "deploy" / "kubernetes" / "base" / "network.yaml").read_text("utf-8")
    asked = set(re.findall(r'^ *(stream-ft\.io/\w+): "(\w+)"$', policies, re.MULTILINE))
    assert given == asked
    assert len(asked) == 3


def test_a_process_that_is_not_ready_says_why_when_asked_from_outside() -> None:
    (line,) = [line for line in lines_of_shell(PAGE_OF_DEPLOY) if line.startswith("docker compose exec ")]
    *words, script = shlex.split(line)
    assert words == ["docker", "compose", "exec", "learn", "python", "-c"]
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    port = services["learn"]["environment"]["STREAM_FT_LEARN__PORT"]
    (curl,) = [line for line in lines_of_shell(PAGE_OF_DEPLOY) if line.startswith("curl ")]
    server = ProbeServer("127.0.0.1", 0, metrics.new_registry(), lambda: (False, "The disk is full."))
    server.start()
    try:
        for asked in (f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}", curl):
            assert port in asked
            told = json.loads(typed(asked.replace(port, str(server.port)), ROOT).stdout)
            assert told == {"ready": False, "error": "The disk is full."}
    finally:
        server.stop()


def in_containers() -> list[str]:
    """Commands of the page and the runbook that name a container of Compose or an object of Kubernetes."""
    own = [
        line
        for page in (PAGE_OF_DEPLOY, RUNBOOK)
        for line in (*every_line(page), *inline(page, "docker compose |kubectl "))
    ]
    names = ("docker compose ", "kubectl -n stream-ft ")
    return sorted({line for line in own if line.startswith(names)})


@pytest.mark.parametrize("line", in_containers())
def test_containers_and_objects_that_commands_name_are_there(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "docker":
        rest = words[2:]
        if rest[0] == "-f":
            assert (ROOT / rest[1]).exists(), rest[1]
            rest = rest[2:]
        services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
        verb, *rest = rest
        if verb.startswith("--"):  # --profile NAME, of which another test is
            return
        assert verb in ("exec", "logs", "restart", "stop", "up"), verb
        for before, word in itertools.pairwise(["", *rest]):
            if word.startswith("-") or before in ("--tail", "--index"):
                continue
            assert word.partition("=")[0] in services, word
            if verb == "exec":
                break
        return
    objects = [
        one for path in (ROOT / "deploy/kubernetes/base").glob("*.yaml") for one in yaml.safe_load_all(path.read_text())
    ]
    named = {(one["kind"], one["metadata"]["name"]) for one in objects if "metadata" in one}
    scaler = "HorizontalPodAutoscaler"
    kinds = {"deployment": "Deployment", "statefulset": "StatefulSet", "hpa": scaler}
    places = re.findall(r"\b(deployment|statefulset|hpa)[/ ]([a-z]+)", line)
    assert {(kinds[kind], name) for kind, name in places} <= named
    # A pod or a claim of the one StatefulSet: NAME-0, VOLUME-NAME-0.
    for volume, pod in re.findall(r"\b(?:(state)-)?(\w+)-0\b", line):
        assert ("StatefulSet", pod) in named
        (learn,) = [one for one in objects if one.get("kind") == "StatefulSet"]
        assert volume in ("", learn["spec"]["volumeClaimTemplates"][0]["metadata"]["name"])
    for patch in re.findall(r"-p '(.*)'", line):
        json.loads(patch)
    if "port-forward" in line:
        assert words[-1] == str(Settings().learn.port)


def test_a_command_in_a_container_is_one_of_ours_in_one_that_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (docker,) = inline(PAGE_OF_DEPLOY, "docker compose exec ")
    (kubectl,) = inline(PAGE_OF_DEPLOY, "kubectl .*exec ")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    service, *words = docker.removeprefix("docker compose exec ").split()
    assert service in services
    options, _, inside = kubectl.partition(" -- ")
    namespace, pod = re.fullmatch(r"kubectl -n (\S+) exec (\S+)", options).groups()  # type: ignore[union-attr]
    objects = [
        one for path in (ROOT / "deploy/kubernetes/base").glob("*.yaml") for one in yaml.safe_load_all(path.read_text())
    ]
    named = {(one["kind"], one["metadata"]["name"]) for one in objects if "metadata" in one}
    assert ("Namespace", namespace) in named
    assert ("StatefulSet", pod.removesuffix("-0")) in named
    state = StateFolder(tmp_path / "state")
    state.genesis()
    for own in (words, inside.split()):
        assert own[0] == "stream-ft"
        assert command(capsys, monkeypatch, *own[1:], "--state-dir", state.path).code == 0


def test_the_page_says_that_nothing_of_docker_and_kubernetes_was_run() -> None:
    text = " ".join(PAGE_OF_DEPLOY.read_text("utf-8").split())
    assert "No image was built, no container, cluster or Grafana was started" in text


# --- grafana -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [line for line in lines_of_shell(ROOT / "grafana" / "README.md") if "generate.py" in line]
)
def test_the_dashboards_are_made_as_the_page_says(line: str, tmp_path: Path) -> None:
    without = shutil.ignore_patterns("node_modules", "dist", "__pycache__")
    shutil.copytree(ROOT / "grafana", tmp_path / "grafana", ignore=without)
    made, wanted = tmp_path / "grafana" / "dashboards", ROOT / "grafana" / "dashboards"
    if "--check" not in line:
        shutil.rmtree(made)
    typed(line.replace(".venv/bin/python", shlex.quote(sys.executable)), tmp_path)
    assert {path.name for path in made.iterdir()} == {path.name for path in wanted.iterdir()}
    for path in wanted.glob("*.json"):
        assert json.loads((made / path.name).read_text("utf-8")) == json.loads(path.read_text("utf-8"))


def test_the_preview_is_served(tmp_path: Path) -> None:
    """On a free port; what it shows is of tests/integration/test_operations.py, which builds it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    (line,) = [x for x in every_line(ROOT / "grafana" / "README.md") if x.startswith("npm start")]
    made = (ROOT / "grafana" / "preview" / "package.json").read_text("utf-8")
    assert " 8901" in made, "the port that the page names"
    with listener() as free:
        port = free.getsockname()[1]
    (tmp_path / "package.json").write_text(made.replace(" 8901", f" {port}"), "utf-8")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("here", "utf-8")
    started = subprocess.Popen(
        ["bash", "-ec", line], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for("the page", lambda: answered(f"http://127.0.0.1:{port}/index.html") == "here", 30)
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(20)


def answered(url: str) -> str:
    """Of a GET; empty where nobody listens yet."""
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.TransportError:
        return ""
