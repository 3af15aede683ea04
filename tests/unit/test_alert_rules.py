"""Prometheus' own tool reads the rules, and their tests pass in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_valid() -> None:
    promtool("check", "config", str(RULES / "prometheus.yml"))
    promtool("check", "rules", str(RULES / "alerts.yml"))


def test_each_alert_fires_when_it_should_and_is_quiet_otherwise() -> None:
    promtool("test", "rules", str(RULES / "alerts_test.yml"))


def test_the_tests_of_the_rules_leave_no_alert_out() -> None:
    names = {rule["alert"] for rule in yaml.safe_load((RULES / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]}
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text("utf-8"))["tests"]
    rows = [row for test in tests for row in test["alert_rule_test"]]
    assert {row["alertname"] for row in rows if row["exp_alerts"]} == names
    assert {row["alertname"] for row in rows if not row["exp_alerts"]} == names


def test_every_query_of_a_panel_is_promql(tmp_path: Path) -> None:
    rules = []
    for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text("utf-8"))
        queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        queries += [annotation["expr"] for annotation in board["annotations"]["list"]]
        for expr in queries:
            filled = expr.replace("$__rate_interval", "1m").replace("$model", ".*")
            assert not re.search(r"\$", filled), expr
            rules.append({"record": f"panel:{len(rules)}", "expr": filled})
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    assert len(rules) > 100
    promtool("check", "rules", str(file))
