"""The services of deploy/compose.yaml as processes of this machine, with the file's own commands and environments.

What a container is told is kept word for word, but for this mapping:

- A service has an address of its own on loopback (``127.a.b.c``), so ports stay as they are. In values, the name of a
  service before a port becomes its address; ``0.0.0.0``, ``127.0.0.1``, ``localhost`` and an empty host become the
  service's own.
- A volume is a folder; where it is mounted inside another one, a symbolic link. Paths below a mount become paths below
  the folder. A folder of the repository that is mounted is copied, and the names of services in it become addresses.
- The image is its Dockerfile's last ``ENV``, and ``python -m stream_ft`` stands for its entry point ``stream-ft``.
- Graphs and measurements go to this user's cache, as an image keeps them that has been started before.
- A healthcheck is run every half second instead of at its interval.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from broker import Broker

from stream_ft.config import load

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
EVERY_S = 0.5
STOP_S = 10.0
"""After so long Docker kills a container that was told to end, where the file names no other time."""


class Compose:
    """A compose file, service by service. Leave it to end everything that it started.

    Args:
        folder: of volumes, secrets and logs; should be empty.
        given: the variables that somebody must set in ``.env``.
    """

    def __init__(self, folder: Path, **given: str) -> None:
        self.folder = folder
        self.given = given
        text = interpolated((DEPLOY / "compose.yaml").read_text("utf-8"), given)
        self.file: dict[str, Any] = yaml.safe_load(text)
        self.services: dict[str, dict[str, Any]] = self.file["services"]
        net = f"127.{random.randint(2, 250)}.{random.randint(1, 250)}"
        self.addresses = {name: f"{net}.{number}" for number, name in enumerate(self.services, start=2)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.broker: Broker | None = None
        self._healthy: set[str] = set()
        self._mounts = {name: self._mounted(name) for name in self.services}

    # --- the mapping -------------------------------------------------------------------------------------------

    def mapped(self, name: str, value: str) -> str:
        """``value``, as it is told to service ``name``, for a process of this machine."""
        own = self.addresses[name]
        for other, address in self.addresses.items():
            value = re.sub(rf"(?<![\w.-]){re.escape(other)}(?=:\d)", address, value)
        value = re.sub(r"(?<![\d.])(0\.0\.0\.0|127\.0\.0\.1)(?![\d.])|\blocalhost\b", own, value)
        value = re.sub(r"://(?=:\d)", f"://{own}", value)
        mounts = self._mounts[name]
        if not mounts:
            return value
        targets = "|".join(re.escape(target) for target in sorted(mounts, key=len, reverse=True))
        return re.sub(rf"(?<![\w./-])({targets})(?![\w.-])", lambda found: str(mounts[found[1]]), value)

    def environment(self, name: str) -> dict[str, str]:
        """Of a service: its image's, then its own. Nothing of this process but where programs are found."""
        told = self.image(name) | {key: str(value) for key, value in self.services[name]["environment"].items()}
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        return plain | {key: self.mapped(name, value) for key, value in told.items() if key != "PATH"}

    def image(self, name: str) -> dict[str, str]:
        """``ENV`` of the last stage of the Dockerfile that a service's image is built by."""
        image = str(self.services[name]["image"])
        built = next(
            one["build"]["dockerfile"] for one in self.services.values() if one.get("build") and one["image"] == image
        )
        last = re.split(r"^FROM .*$", (ROOT / built).read_text("utf-8"), flags=re.MULTILINE)[-1]
        words = " ".join(re.findall(r"^ENV ((?:.*\\\n)*.*)$", last, re.MULTILINE)).replace("\\\n", " ").split()
        return dict(word.split("=", 1) for word in words)

    def command(self, name: str) -> list[str]:
        """Of one of our services."""
        words = [self.mapped(name, str(word)) for word in self.services[name]["command"]]
        return [sys.executable, "-m", "stream_ft", *words]

    def _mounted(self, name: str) -> dict[str, Path]:
        """Folder or file of this machine by path in the container."""
        found = {}
        for secret in self.services[name].get("secrets", ()):
            found[f"/run/secrets/{secret}"] = self._kept(
                f"secrets/{secret}", self.given[self.file["secrets"][secret]["environment"]]
            )
        for volume in sorted(self.services[name].get("volumes", ()), key=lambda one: len(one.split(":")[1])):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                found[target] = (DEPLOY / source).resolve()
                continue
            path = self.folder / "volumes" / source
            path.mkdir(parents=True, exist_ok=True)
            found[target] = path
            for outer in list(found):
                if target.startswith(outer + "/"):
                    (found[outer] / target.removeprefix(outer + "/")).symlink_to(path)
                    del found[target]
        if str(self.services[name]["image"]).startswith("stream-ft/"):
            found["/var/cache/stream_ft"] = load().cache_path()
        return found

    def _kept(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    # --- processes ---------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a service, once those that it depends on are as it wants them."""
        for other, wanted in self.services[name].get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy" and other != "kafka":
                self.healthy(other)
        self._run(name, self.command(name), self.environment(name))

    def start_kafka(self) -> None:
        """A broker with the settings of the file; on return it answers."""
        told = self.services["kafka"]["environment"]
        settings = {
            key.removeprefix("KAFKA_").lower().replace("_", "."): self.mapped("kafka", str(value))
            for key, value in told.items()
            if key.startswith("KAFKA_")
        }
        host, _, port = settings["advertised.listeners"].partition("://")[2].partition(":")
        self.broker = Broker(self.folder / "kafka", settings=settings, at=(host, int(port)))
        self.broker.start()

    def start_prometheus(self) -> None:
        """Debian's Prometheus, with the file's arguments and configuration, listening at the service's address."""
        copied = self.folder / "prometheus"
        shutil.copytree(self._mounts["prometheus"]["/etc/prometheus"], copied)
        self._mounts["prometheus"]["/etc/prometheus"] = copied
        for path in copied.glob("*.yml"):
            path.write_text(self.mapped("prometheus", path.read_text("utf-8")), "utf-8")
        words = [self.mapped("prometheus", word) for word in self.services["prometheus"]["command"]]
        listen = f"--web.listen-address={self.addresses['prometheus']}:9090"
        self._run("prometheus", ["prometheus", *words, listen], {"PATH": os.environ["PATH"]})

    def _run(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def healthy(self, name: str) -> None:
        """Wait until the healthcheck of a service succeeds, no longer than the file allows.

        Raises:
            AssertionError: the service ended, or was not healthy in time.
        """
        if name in self._healthy:
            return
        check = self.services[name]["healthcheck"]
        kind, *words = check["test"]
        assert kind == "CMD", f"the check of {name} needs a shell"
        words = [sys.executable if word == "python" else self.mapped(name, word) for word in words]
        until = (
            time.monotonic() + seconds(check.get("start_period", "0s")) + seconds(check["interval"]) * check["retries"]
        )
        while time.monotonic() < until:
            self.alive()
            done = subprocess.run(
                words,
                timeout=30,
                capture_output=True,
                check=False,
                env={"PATH": os.environ["PATH"]},
            )
            if done.returncode == 0:
                self._healthy.add(name)
                return
            time.sleep(EVERY_S)
        raise AssertionError(f"{name} is not healthy: {done.stderr.decode()[-300:]}")

    def alive(self) -> None:
        """Raises an ``AssertionError`` with the end of its log if a process has ended."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)}"

    def stop(self, name: str) -> int:
        """What ``docker stop`` does; the exit code, or minus the signal where it had to be killed."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            return process.wait(seconds(self.services[name].get("stop_grace_period", f"{STOP_S}s")))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def log(self, name: str) -> str:
        """The end of what a service wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace")[-4000:] if path.exists() else ""

    def __enter__(self) -> Compose:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        if self.broker is not None:
            self.broker.kill()
        if error is not None:
            for name in self.services:
                print(f"--- {name}\n{self.log(name)}")


def interpolated(text: str, given: Mapping[str, str]) -> str:
    """A compose file with its variables filled in: ``${NAME:?why}`` from ``given``, ``${NAME:-default}`` too if there.

    Raises:
        KeyError: a variable that must be set is not given.
    """
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: given[found[1]], text)
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), text)


def seconds(text: str) -> float:
    """A duration of the file (``10s``, ``3m``) in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m)", text)
    assert found, text
    return float(found[1]) * {"s": 1, "m": 60}[found[2]]
