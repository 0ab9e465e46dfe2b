"""What Prometheus' own judge says of our metrics and rules."""

import shutil
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from tests.prometheus.charted import ALERTS, RULES, alerts, recordings
from tests.prometheus.exported import registries
from tests.prometheus.promtool import told

RULE_TESTS = Path(__file__).with_name("rules.test.yaml")


@pytest.mark.parametrize("program", registries())
def test_metrics_of_each_program_are_named_and_explained_as_prometheus_wants(
    promtool: Path, program: str
) -> None:
    text = generate_latest(registries()[program])
    assert told(promtool, "check", "metrics", input=text) == ""


def test_lint_of_metrics_sees_a_unit_that_is_no_base_unit(promtool: Path) -> None:
    """So that the test above can fail."""
    text = (
        b"# HELP mpslice_memory_gb Memory.\n# TYPE mpslice_memory_gb gauge\nmpslice_memory_gb 1\n"
    )
    assert "abbreviated units" in told(promtool, "check", "metrics", input=text)


@pytest.mark.parametrize("path", [ALERTS, RULES], ids=lambda path: path.stem)
def test_rules_are_what_prometheus_reads(promtool: Path, path: Path) -> None:
    assert told(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(path)) == ""


def test_alerts_fire_and_rules_add_up_when_they_should(promtool: Path, tmp_path: Path) -> None:
    for path in (ALERTS, RULES, RULE_TESTS):
        shutil.copy(path, tmp_path)
    assert told(promtool, "test", "rules", RULE_TESTS.name, folder=tmp_path) == ""


def test_every_alert_is_tested_to_fire_and_to_be_silent_and_every_rule_to_add_up() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    firing = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert firing == silent == {rule["alert"] for rule in alerts()}
    asked = " ".join(case["expr"] for test in tests for case in test.get("promql_expr_test", ()))
    assert [rule["record"] for rule in recordings() if rule["record"] not in asked] == []
