"""The system under the demo: ``stream-ft up`` in processes of its own, and the operator's command line."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from msgspec import Struct

from stream_ft.errors import ConfigError, StreamFTError
from stream_ft.parent import SUPERVISED

MARK = "demo.toml"
COMMAND = "stream-ft: "
"""What the command line puts before what is wrong."""
READY_S = 120.0
STOP_S = 30.0


class Usage(Struct, frozen=True, kw_only=True):
    """Of all processes of the system: CPU seconds so far, those of serving, and resident MB (10^6 bytes) now."""

    cpu_s: float
    serve_cpu_s: float
    resident_mb: float


def settings_text(
    state: Path, *, port: int, learn_port: int, model: str | None, min_evaluation: int, adapt_first: int
) -> str:
    """The demo's settings file: the defaults, but for what makes three minutes enough to see everything.

    The encoder is trained once, when there are ``adapt_first`` examples: drift alone is answered by refitting the head,
    or the alarm that the broken import raises would cost a minute of training on it.
    """
    base = f'[model]\nbase = "{_quoted(model)}"\n\n' if model else ""
    return (
        "# Written by `stream-ft demo`.\n"
        f'state_dir = "{_quoted(str(state))}"\noperator = "demo"\n\n{base}'
        f"[serve]\nport = {port}\n\n[learn]\nport = {learn_port}\n\n"
        f"[schedule]\ninterval_s = 3.0\nmin_new = 40\nmin_evaluation = {min_evaluation}\n"
        f"adapt_first = {adapt_first}\nadapt_every = 100000\nadapt_misjudged = 0\nadapt_on_drift = false\n\n"
        "[fast]\nenabled = true\nhead_every = 100\n\n[round]\nsteps = 20\nbatch = 16\n\n"
        '[log]\nlevel = "info"\n'
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _environment() -> dict[str, str]:
    """Without anybody's own settings: they would win over the demo's file."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAM_FT_")}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class System:
    """``stream-ft up`` on a state folder that is made afresh.

    Args:
        folder: of the state; what an earlier demo left there is removed, anything else is left alone.
        model: Hugging Face name or path of the encoder; the default one if ``None``.
        min_evaluation: examples that the gate asks for.
        adapt_first: training examples before the round that trains the encoder.

    Raises:
        ConfigError: the folder holds something that no demo wrote.
    """

    def __init__(
        self, folder: Path, *, model: str | None = None, min_evaluation: int = 200, adapt_first: int = 1_400
    ) -> None:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MARK).exists():
                raise ConfigError(
                    f"{folder} holds files that no demo wrote.", "Choose another folder with --out, or empty this one."
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.config = self.folder / MARK
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.config.write_text(
            settings_text(
                self.folder,
                port=port,
                learn_port=free_port(),
                model=model,
                min_evaluation=min_evaluation,
                adapt_first=adapt_first,
            ),
            encoding="utf-8",
        )
        self._log = (self.folder / "log.txt").open("wb")
        self._process = subprocess.Popen(
            self._command("up"), stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT,
            env=_environment() | {SUPERVISED: "1"},  # a demo that is killed leaves nothing running
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the system in order
        )  # fmt: skip

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "stream_ft", *arguments, "--config", str(self.config)]

    def wait_ready(self) -> float:
        """Block until the server answers; seconds it took.

        Raises:
            StreamFTError: it ended, or did not become ready in time.
        """
        begin = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=2, trust_env=False) as http:
            while time.monotonic() - begin < READY_S:
                if self._process.poll() is not None:
                    raise self._failed()
                try:
                    if http.get("/readyz").is_success and (self.folder / "learn.status.json").exists():
                        return time.monotonic() - begin
                except httpx.HTTPError:
                    pass  # it does not listen yet
                time.sleep(0.1)
        raise StreamFTError(
            f"stream-ft up was not ready after {READY_S:.0f} s: {self.last_words()}", f"See {self.folder / 'log.txt'}."
        )

    def _failed(self) -> StreamFTError:
        """Why it ended before it was ready: in its own words, if it said what is wrong and what to do."""
        said = [line.removeprefix(COMMAND) for line in self._log_lines() if line.startswith(COMMAND)]
        kind = ConfigError if self._process.returncode == 2 else StreamFTError
        if said:
            return kind(said[0])
        return kind(f"stream-ft up ended at once: {self.last_words()}", f"See {self.folder / 'log.txt'}.")

    def last_words(self) -> str:
        """The last line of the log, without the name of the command that said it."""
        lines = self._log_lines()
        return lines[-1].removeprefix(COMMAND) if lines else "it said nothing."

    def _log_lines(self) -> list[str]:
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()

    def alive(self) -> bool:
        """False once ``up`` has ended."""
        return self._process.poll() is None

    def control(self, *arguments: str) -> str:
        """Issue one command as an operator would; what the command line said.

        Raises:
            StreamFTError: it was refused.
        """
        environment = _environment() | {"NO_COLOR": "1", "COLUMNS": "200"}
        done = subprocess.run(
            self._command("control", *arguments), capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode != 0:
            raise StreamFTError(f"The command was refused: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def usage(self) -> Usage:
        """What its processes have used so far; all zero once it has ended."""
        cpu, serving, resident = 0.0, 0.0, 0.0
        for member in self._members():
            try:
                times: Any = member.cpu_times()
                spent = times.user + times.system + times.children_user + times.children_system
                cpu += spent
                serving += spent if "serve" in member.cmdline() else 0.0
                resident += member.memory_info().rss / 1e6
            except psutil.Error:
                continue  # it ended between the listing and the question
        return Usage(cpu_s=cpu, serve_cpu_s=serving, resident_mb=resident)

    def _members(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> int:
        """End it in order; its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()
        return self._process.returncode
