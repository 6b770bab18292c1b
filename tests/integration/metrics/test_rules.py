"""The alert rules, as Prometheus' own tool reads and tries them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ROOT, rendered, run, shown_config

STORIES = Path(__file__).with_name("rules.yml")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rules, as Prometheus reads them."""
    file = tmp_path / "corral-rules.yml"
    file.write_text(rendered("corral-rules.yml"))
    return file


def test_the_rules_are_rules(rules: Path) -> None:
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert f"SUCCESS: {len(alerts)} rules found" in run("promtool", "check", "rules", rules)


def test_where_nobody_says_whom_to_expect_the_registered_workers_are_counted(
    rules: Path, tmp_path: Path
) -> None:
    story = {
        "rule_files": [rules.name],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": "corral_broker_up", "values": "1x20"},
                    {"series": 'corral_worker_open{worker="a"}', "values": "1x20"},
                    {"series": 'corral_worker_open{worker="b"}', "values": "1x5 0x15"},
                    {"series": 'corral_worker_open{worker="c"}', "values": "1x9 0x11"},
                ],
                "alert_rule_test": [
                    _few(9, fires=False),
                    _few(19, fires=True),
                ],
            }
        ],
    }
    (tmp_path / "story.yml").write_text(yaml.safe_dump(story))
    run("promtool", "test", "rules", tmp_path / "story.yml")


def _few(minute: int, fires: bool) -> dict[str, Any]:
    summary = "Less than half of the workers are given work: corral worker list"
    alert = {"exp_labels": {"severity": "warning"}, "exp_annotations": {"summary": summary}}
    return {
        "alertname": "CorralFewWorkers",
        "eval_time": f"{minute}m",
        "exp_alerts": [alert] if fires else [],
    }


def test_each_alert_fires_for_its_cause_and_for_nothing_else(rules: Path) -> None:
    stories = rules.with_name("stories.yml")
    stories.write_text(STORIES.read_text())
    assert "SUCCESS" in run("promtool", "test", "rules", stories)


def test_each_alert_has_a_story_in_which_it_fires_and_one_in_which_it_does_not(
    rules: Path,
) -> None:
    told = [
        (one["alertname"], bool(one["exp_alerts"]))
        for story in yaml.safe_load(STORIES.read_text())["tests"]
        for one in story["alert_rule_test"]
    ]
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert set(told) == {(alert, fires) for alert in alerts for fires in (True, False)}


def test_the_alarm_is_what_alertmanager_reads(tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(rendered("alertmanager.yml", monitoring_alarm_url="https://phone.example/x"))
    assert "SUCCESS" in run("amtool", "check-config", file)
    routes = (("critical", "phone"), ("warning", "seen"))
    for severity, receiver in routes:
        command = ("amtool", "config", "routes", "test", f"--config.file={file}")
        assert run(*command, f"severity={severity}").splitlines()[0] == receiver


def test_what_the_page_has_typed_writes_what_prometheus_reads(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "monitoring.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    [typed] = [textwrap.dedent(block) for block in blocks if "ansible" in block]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", typed],
        cwd=ROOT, env={**os.environ, "HOME": str(tmp_path), "PATH": path}, check=True,
    )  # fmt: skip
    folder = tmp_path / "prometheus"
    assert json.loads((folder / "corral-targets.json").read_text())[0]["targets"] == [
        "127.0.0.1:8000"
    ]
    (folder / "corral.token").write_text("a token\n")
    (folder / "prometheus.yml").write_text(shown_config())
    assert "SUCCESS" in run("promtool", "check", "config", folder / "prometheus.yml")
