"""The quick start, and what docs/operate.md says of a running system, typed into a shell as they are."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from docs_page import PAGES, ROOT, blocks, every_line, fitted, program
from house import House, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
START = ROOT / "docs" / "quick-start.md"
OPERATE = ROOT / "docs" / "operate.md"
SETUP, UP, *REST = blocks(START, "bash")


class Shell:
    """A shell in which ``stream-ft`` is this tree's.

    Args:
        folder: the working folder; what the pages name in the repository is there too.
        places: what stands in the pages, and what is put for it.
        settings: ``STREAM_FT_*``, as somebody sets them who does not want the defaults.
    """

    def __init__(self, folder: Path, places: dict[str, str], **settings: str) -> None:
        self.folder = folder
        self.places = places
        (folder / "stream_ft").symlink_to(ROOT / "stream_ft")
        program = folder / ".venv" / "bin" / "stream-ft"
        program.parent.mkdir(parents=True)
        # Not a link to the installed script: that may be of another tree. And away from the link above.
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m stream_ft "$@"\n')
        program.chmod(0o755)
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAM_FT_")}
        self.environment = own | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **{f"STREAM_FT_{name}": value for name, value in settings.items()},
        }

    def type(self, text: str) -> str:
        """Type a block; what it printed. It stops at the first command that fails.

        Raises:
            AssertionError: a command failed.
        """
        done = subprocess.run(
            ["bash", "-ec", fitted(text, self.places)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Ports are this test's; everything else is as a reader has it."""
    port, learn_port = free_port(), free_port()
    places = {
        "localhost:8080": f"localhost:{port}",
        "stream-ft replay": f"stream-ft replay --url http://localhost:{port}",
    }
    ports = {"SERVE__PORT": str(port), "LEARN__PORT": str(learn_port)}
    return Shell(tmp_path, places, **ports)


@pytest.fixture
def up(shell: Shell) -> Iterator[subprocess.Popen[bytes]]:
    """The terminal of its own."""
    with (shell.folder / "up.log").open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-ec", "exec " + UP],
            cwd=shell.folder,
            env=shell.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
    assert process.returncode == 130, (shell.folder / "up.log").read_text("utf-8", "replace")


def test_the_quick_start_is_quick_and_does_what_it_says(shell: Shell, up: subprocess.Popen[bytes]) -> None:
    assert SETUP.split() == ["make", "setup"]
    ask, teach, again, correct, look, back, simulate = REST
    assert shutil.which("curl")
    url = f"http://{shell.places['localhost:8080']}"

    def ready() -> bool:
        assert up.poll() is None, (shell.folder / "up.log").read_text("utf-8", "replace")
        try:
            return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_for("up", ready)
    assert json.loads(shell.type(ask))["predictions"][0]["label"] == ""
    # At the page's rate this takes 25 s, and more than that where the machine is busy.
    shell.type(teach)
    wait_for("a version", lambda: json.loads(shell.type(again))["predictions"][0]["label"], 30, every=1.0)
    answer = json.loads(shell.type(again))
    assert answer["version"] != "v0.1.0"
    shell.places["p-..."] = answer["predictions"][0]["id"]
    assert json.loads(shell.type(correct))["accepted"] == 1
    looked = shell.type(look)
    assert "in force" in looked
    assert answer["version"].split(".")[0] in looked
    shell.type(back)
    before = answer["version"]
    wait_for("the version before", lambda: json.loads(shell.type(again))["version"] != before, 20, every=0.5)
    shell.type(simulate)
    assert (shell.folder / "tried" / "report.html").stat().st_size > 1_000


def other_lines(command: str) -> list[str]:
    """Lines of the other pages that begin so, one of each kind."""
    lines = (line for page in PAGES if page not in (START, OPERATE) for line in every_line(page))
    return sorted(
        {line.removeprefix(".venv/bin/") for line in lines if program(line) == "stream-ft" and command in line}
    )


@pytest.mark.parametrize("line", other_lines("stream-ft up"))
def test_what_starts_the_system_starts_it(line: str, shell: Shell) -> None:
    port = shell.places["localhost:8080"].rpartition(":")[2]
    shell.environment["STREAM_FT_STATE_DIR"] = str(shell.folder / "elsewhere")
    with (shell.folder / "up.log").open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-ec", "exec " + line.replace("8080", port)],
            cwd=shell.folder, env=shell.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:

        def ready() -> bool:
            assert process.poll() is None, (shell.folder / "up.log").read_text("utf-8", "replace")
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for("up", ready)
        assert (shell.folder / ("state" if "./state" in line else "elsewhere")).is_dir()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 130


@pytest.mark.parametrize("line", other_lines("stream-ft simulate"))
def test_a_simulation_of_the_reader_s_own_file(line: str, shell: Shell) -> None:
    rows = (ROOT / "stream_ft" / "demo" / "shop_stream.tsv").read_text("utf-8").splitlines()[1:81]
    with (shell.folder / "messages.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "category"), *(row.split("\t")[:2] for row in rows)])
    shell.type(line)
    assert json.loads((shell.folder / "tried" / "summary.json").read_text("utf-8"))["events"] == 80
    assert (shell.folder / "tried" / "report.html").stat().st_size > 1_000


def other_than(house: House, version: str) -> bool:
    """Whether another version answers by now."""
    return house.version() != version


def test_what_operate_says_of_a_running_system_is_so(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "shell").mkdir()
    with House(tmp_path / "house") as house:
        house.start("up")
        house.ready("serve")
        house.ready("learn")
        places = {
            "localhost:8080": f"127.0.0.1:{house.port}",
            "localhost:8081": f"127.0.0.1:{house.learn_port}",
        }
        settings = {
            name.removeprefix("STREAM_FT_"): value
            for name, value in house.environment().items()
            if name.startswith("STREAM_FT_")
        }
        shell = Shell(tmp_path / "shell", places, **settings)
        first = house.version()
        house.send(45)
        wait_for("a promotion", lambda: house.version() != first, 60)
        house.correct()
        said = ""
        for block in blocks(OPERATE, "bash"):
            if "canary" in block or "SHA256" in block:
                continue  # these want two bases: tests/docs/test_docs_operate.py
            before = house.version()
            said += shell.type(block)
            if "rollback" in block:
                wait_for("the version before", partial(other_than, house, before), 20)
                back = house.version()
                house.send(15)
                wait_for("a promotion after it", partial(other_than, house, back), 60)
        assert '"id":"label-' in said, "/feedback lists what was published last"
        # Back up, move: stop, copy, start there.
        house.send(1)
        wait_for("all in the store", house.caught_up, 30)
        shell.type("stream-ft control pause")  # or a round that begins meanwhile would bring another version
        wait_for("the pause", lambda: house.http.get("/status").json()["serve"]["paused"], 20)
        stood = house.answering()
        assert house.stop("up") == 143
        assert not re.search(r"Traceback", house.log("up"))
        shutil.copytree(house.state, tmp_path / "moved")
    with House(tmp_path / "house", STATE_DIR=str(tmp_path / "moved")) as moved:
        moved.start("up")
        moved.ready("serve")
        assert moved.answering() == stood
        assert moved.stop("up") == 143
