"""Where torch may be imported, and that stages keep to the direction in which data flows."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "peft"}
MAY_IMPORT_TORCH = (
    "stream_ft.model.engines.",
    "stream_ft.model.tasks",
    "stream_ft.model.base",
    "stream_ft.model.export",
    "stream_ft.model.measure",
    "stream_ft.learn.adapt",
    "stream_ft.learn.round",
)
LIGHT = (
    "stream_ft",
    "stream_ft.cli",
    "stream_ft.client",
    "stream_ft.control",
    "stream_ft.demo.client",
    "stream_ft.ingest.validate",
    "stream_ft.learn.drift",
    "stream_ft.learn.evaluate",
    "stream_ft.learn.fast.tier",
    "stream_ft.learn.gate",
    "stream_ft.learn.learner",
    "stream_ft.learn.round",
    "stream_ft.learn.schedule",
    "stream_ft.model.closed_form",
    "stream_ft.model.heads",
    "stream_ft.release.fold",
    "stream_ft.release.manifest",
    "stream_ft.release.registry",
    "stream_ft.replay.store",
    "stream_ft.serve.http",
    "stream_ft.testing",
    "stream_ft.wiring.learn",
    "stream_ft.wiring.replay",
    "stream_ft.wiring.serve",
)
"""Modules that import in milliseconds, whatever they import in turn."""
EARLIER = {
    "stream_ft.ingest": ("replay", "learn", "release", "serve", "model", "wiring"),
    "stream_ft.replay": ("learn", "release", "serve", "wiring"),
    "stream_ft.model": ("ingest", "replay", "release", "serve", "wiring"),
    "stream_ft.release": ("ingest", "replay", "learn", "serve", "wiring"),
    "stream_ft.serve": ("replay", "learn", "wiring"),
    "stream_ft.learn": ("ingest", "serve", "wiring"),
    "stream_ft.connectors": ("ingest", "replay", "learn", "release", "serve", "model", "wiring"),
    "stream_ft.client": ("ingest", "replay", "learn", "serve", "model"),
}
"""What each stage must not import: what comes later, and the insides of others."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, prefix in ((ROOT / "stream_ft", "stream_ft"), (ROOT / "connectors", "stream_ft.connectors")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((prefix, *(part for part in parts if part != "__init__")))] = path
    return found


def imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Names that a module imports at run time, whole and dotted; what is under ``TYPE_CHECKING`` does not count."""

    package = PACKAGES[path]

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join([*package[: len(package) + 1 - node.level], node.module or ""]).rstrip(".")
            origin = origin if node.level else node.module or ""
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(ast.parse(path.read_text(encoding="utf-8")))


MODULES = modules()
PACKAGES = {
    path: name.split(".") if path.name == "__init__.py" else name.split(".")[:-1] for name, path in MODULES.items()
}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(MAY_IMPORT_TORCH)])
def test_torch_is_imported_only_where_models_run(name: str) -> None:
    assert not {found for found in imports(MODULES[name]) if found.partition(".")[0] in HEAVY}


@pytest.mark.parametrize("name", LIGHT)
def test_importing_a_light_module_does_not_reach_torch(name: str) -> None:
    assert name in MODULES
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        for found in imports(MODULES[module], at_import_only=True):
            assert found.partition(".")[0] not in HEAVY, f"{name} reaches {found} by {module}"
            waiting.append(found)


@pytest.mark.parametrize("stage", EARLIER)
def test_stages_do_not_import_what_comes_later(stage: str) -> None:
    forbidden = tuple(f"stream_ft.{later}" for later in EARLIER[stage])
    broken = {
        f"{name} imports {found}"
        for name, path in MODULES.items()
        if name == stage or name.startswith(f"{stage}.")
        for found in imports(path)
        if found.startswith(forbidden)
    }
    assert broken == set()


def test_only_wiring_and_the_command_line_see_settings() -> None:
    allowed = ("stream_ft.wiring", "stream_ft.cli", "stream_ft.doctor", "stream_ft.demo", "stream_ft.config")
    seeing = {name for name, path in MODULES.items() if "stream_ft.config" in imports(path)}
    assert {name for name in seeing if not name.startswith(allowed)} == set()


def test_nothing_unpickles() -> None:
    for name, path in MODULES.items():
        assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(imports(path)), name
        assert "torch.load" not in path.read_text(encoding="utf-8"), name


def test_the_package_and_its_command_line_import_without_torch() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'scipy', 'river'}"
    code = f"import sys, stream_ft, stream_ft.cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_every_package_is_packaged() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == {name for name, path in MODULES.items() if path.name == "__init__.py"}


def test_modules_are_one_noun_of_a_readable_size() -> None:
    for name, path in MODULES.items():
        assert not set(name.split(".")) & {"utils", "util", "common", "helpers", "manager", "misc"}, name
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, name
