"""What is installed from a wheel works, in an environment that has never seen the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP_SETTINGS = (
    "PIP_",
    "SSL_",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PATH",
    "HOME",
    "http_proxy",
    "https_proxy",
    "LANG",
)
"""Of the environment, what pip may need; nothing that leads back to the source tree."""
LABELS = ("delivery", "refund", "product")
WORDS = (
    ("where is my parcel", "when will order {} arrive", "the courier did not come on day {}"),
    ("I want my money back for order {}", "please refund invoice {}", "the refund of {} has not come"),
    ("does model {} have bluetooth", "which size is article {}", "is the blue one {} in stock"),
)


def call(*words: str | Path, cwd: Path, timeout: float = 900) -> str:
    """Run a command in a clean environment and give its output; fails with what it said."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(PIP_SETTINGS)}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def install_torch(python: Path, version: str, cwd: Path) -> None:
    """As the set-up does: on Linux by a name that only a CPU build has, so that a test never pulls gigabytes."""
    install = (python, "-m", "pip", "install", "-q", "--no-deps")
    if sys.platform != "linux":
        call(*install, f"torch=={version}", cwd=cwd)
        return
    try:
        call(*install, f"torch=={version}+cpu", cwd=cwd)
    except AssertionError:
        index = "https://download.pytorch.org/whl/cpu"
        call(*install, "--extra-index-url", index, f"torch=={version}+cpu", cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git has, so that a file that was forgotten is missing here too."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    call("git", "clone", "-q", ROOT, source, cwd=folder)
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty virtual environment; removed afterwards, because pytest would keep its gigabytes for three runs."""
    folder = tmp_path / "env"
    venv.create(folder, with_pip=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_holds_one_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"stream_ft"}
    assert "stream_ft/connectors/local.py" in names
    assert [name for name in names if name.startswith("stream_ft/demo/") and name.endswith(".tsv")]
    assert {"stream_ft/wiring/report.html", "stream_ft/serve/manual.html"} <= set(names)
    assert {"stream_ft/py.typed", "stream_ft/client/http.py"} <= set(names)
    assert not [name for name in names if Path(name).name.startswith(("test_", "conftest"))]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_wheel_works_in_a_clean_environment(wheel: Path, home: Path, tmp_path: Path) -> None:
    python, command = home / "bin" / "python", home / "bin" / "stream-ft"
    constraints = ROOT / "constraints.txt"
    torch = re.search(r"^torch==(.+)$", constraints.read_text(), re.MULTILINE)
    assert torch
    install_torch(python, torch[1], tmp_path)
    call(python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[demo]", cwd=tmp_path)

    where = call(python, "-c", "import stream_ft.connectors; print(stream_ft.__file__)", cwd=tmp_path)
    assert str(home) in where
    assert "simulate" in call(command, "--help", cwd=tmp_path)
    assert call(command, "--version", cwd=tmp_path).startswith("stream-ft ")

    rows = [f"{WORDS[n % 3][n // 3 % 3].format(n)}\t{LABELS[n % 3]}" for n in range(360)]
    (tmp_path / "stream.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    columns = ("--text-column", "text", "--label-column", "label")
    call(command, "simulate", "stream.tsv", *columns, "--out", "tried", "--set", "round.method=head", cwd=tmp_path)
    summary = json.loads((tmp_path / "tried" / "summary.json").read_text())
    assert (summary["events"], summary["classes"]) == (360, 3)
    assert summary["promotions"] >= 1
    assert "<svg" in (tmp_path / "tried" / "report.html").read_text()
