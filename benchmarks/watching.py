"""A real Prometheus beside a running system: it scrapes, evaluates the alerts, and is asked what the panels ask."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARDS = ROOT / "grafana" / "dashboards"
SCRAPE_S = 2
STEP_S = 4
SCALE = 30
"""What an alert waits for (``for:``) is divided by this; nothing else of a rule is changed."""
SHORTEST_S, LONGEST_S = 2.0, 60.0
"""But to no less and no more than these seconds."""
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One process to scrape."""

    job: str
    address: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a panel's query brought."""

    panel: str
    expr: str
    rows: int
    alive: bool
    """Some value is finite and not zero."""


def waits_s(rule: Mapping[str, Any], longest_s: float = LONGEST_S) -> float:
    """Seconds that the scaled rule waits."""
    if (text := rule.get("for")) is None:
        return 0.0
    return min(longest_s, max(SHORTEST_S, int(text[:-1]) * UNITS[text[-1]] / SCALE))


class Prometheus:
    """The process, and its HTTP API.

    Args:
        folder: of its files; made.
        port: on which it listens.
        longest_s: that an alert waits (its ``for:``).
    """

    def __init__(self, folder: Path, *, port: int, longest_s: float = LONGEST_S) -> None:
        if shutil.which("prometheus") is None:
            sys.exit("Prometheus is not installed: apt-get install -y --no-install-recommends prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        rules = yaml.safe_load(RULES.read_text("utf-8"))
        self.rules: list[dict[str, Any]] = rules["groups"][0]["rules"]
        for rule in self.rules:
            if "for" in rule:
                rule["for"] = f"{waits_s(rule, longest_s):.0f}s"
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules), "utf-8")
        self._targets = folder / "targets.json"
        self.scrape([])
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE_S}s",
                "evaluation_interval": f"{SCRAPE_S}s",
                "scrape_timeout": "2s",
            },
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {
                    "job_name": "stream-ft",
                    "file_sd_configs": [{"files": [self._targets.name], "refresh_interval": "1s"}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
        self._log = (folder / "log.txt").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        end = time.monotonic() + 30
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                sys.exit(f"Prometheus did not start: see {folder / 'log.txt'}")
            time.sleep(0.1)
        self.started = time.time()

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def scrape(self, targets: Sequence[Target]) -> None:
        """From now on, these."""
        rows = [{"targets": [t.address], "labels": {"job": t.job, "model": t.model}} for t in targets]
        self._targets.with_suffix(".tmp").write_text(json.dumps(rows), "utf-8")
        self._targets.with_suffix(".tmp").rename(self._targets)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._http.close()
        self._log.close()

    # --- asking ------------------------------------------------------------------------------------------------

    def _get(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        response = self._http.get(path, params=parameters)
        body = response.json()
        if body["status"] != "success":
            raise RuntimeError(f"{parameters}: {body['error']}")
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def now(self, expr: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Each row of an instant query, by its labels."""
        rows = self._get("/api/v1/query", query=expr)
        return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in rows}

    def over(self, expr: str, start: float, end: float, step: float = STEP_S) -> list[list[float]]:
        """Values of each row between two times."""
        rows = self._get("/api/v1/query_range", query=expr, start=start, end=end, step=step)
        return [[float(value) for _, value in row["values"]] for row in rows]

    def firing(self, start: float, end: float) -> dict[str, set[str]]:
        """Alerts that fired between two times, each with its models."""
        rows = self._get(
            "/api/v1/query_range", query='ALERTS{alertstate="firing"}', start=start, end=end, step=SCRAPE_S
        )
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["metric"]["alertname"], set()).add(row["metric"].get("model", ""))
        return found

    def fires_now(self, name: str, model: str) -> bool:
        """Does this alert fire for a model?"""
        return bool(self.now(f'ALERTS{{alertstate="firing", alertname="{name}", model="{model}"}}'))

    def shown(self, start: float, end: float) -> list[Shown]:
        """What every query of every panel, and of the annotations, brought."""
        found = []
        for path in sorted(DASHBOARDS.glob("*.json")):
            board = json.loads(path.read_text("utf-8"))
            queries = [
                (f"{path.stem} / {panel['title']}", target["expr"])
                for panel in board["panels"]
                for target in panel.get("targets", [])
            ]
            queries += [(f"{path.stem} / {note['name']} marked", note["expr"]) for note in board["annotations"]["list"]]
            for panel, expr in queries:
                rows = self.over(filled(expr), start, end)
                alive = any(math.isfinite(value) and value != 0 for row in rows for value in row)
                found.append(Shown(panel=panel, expr=expr, rows=len(rows), alive=alive))
        return found


def filled(expr: str) -> str:
    """A panel's query with Grafana's variables filled in, as Grafana would at this scrape interval."""
    expr = expr.replace("$__rate_interval", f"{4 * SCRAPE_S}s").replace("$model", ".*")
    if re.search(r"\$", expr):
        raise ValueError(f"a variable is left in {expr}")
    return expr
