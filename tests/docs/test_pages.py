"""The pages are complete and true to the code: links, reasons, causes, alerts, metrics, cards."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from promql_parser import parse

from hack.site import values
from mpslice.gpus import MemoryUnit, capacity_gb
from nodeagent.metrics import Metrics as AgentMetrics
from planner.metrics import Metrics as PlannerMetrics
from planner.model import Cause
from tests.chart import CHART
from tests.docs.blocks import PAGES, commands
from webhook.metrics import Metrics as WebhookMetrics
from webhook.verdicts import Reason

Json = dict[str, Any]
CHECKOUT = PAGES.parent


def page(name: str) -> str:
    return (PAGES / name).read_text()


def rows(text: str, columns: int) -> list[list[str]]:
    """The cells of every table row with so many columns, headings left out."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("| ---")
    ]
    return [row for row in found if len(row) == columns]


def test_site_builds_and_no_link_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "values.html").read_text()
    assert "mps.userID" in text
    for html in tmp_path.glob("*.html"):
        assert not re.search(r'<(script|link|img)[^>]*(src|href)="https?://', html.read_text())


def test_every_value_of_the_chart_is_on_the_page_with_its_meaning() -> None:
    listed = {each.path: each for each in values((CHART / "values.yaml").read_text())}
    for path in ("mps.userID", "tls.mode", "nodeAgent.updateStrategy", "planner.batchIdle"):
        assert path in listed
    bare = [each.path for each in listed.values() if each.default and not each.comment]
    assert bare == []


def test_every_refusal_has_its_remedy_in_the_user_guide() -> None:
    table = {row[0].strip("`") for row in rows(page("user-guide.md"), 3)}
    assert {str(reason) for reason in Reason} <= table


def test_every_cause_of_waiting_is_in_the_user_guide() -> None:
    words = {
        word for row in rows(page("user-guide.md"), 2) for word in re.findall(r"`(\w+)`", row[0])
    }
    assert {str(cause) for cause in Cause} <= words


def test_messages_on_the_pages_are_the_programs_own() -> None:
    (shown,) = [
        line.partition("MultipleSlices: ")[2]
        for command in commands("user-guide.md")
        for line in command.shown
        if "MultipleSlices" in line
    ]
    golden = CHECKOUT / "tests" / "webhook" / "golden" / "answers.txt"
    assert shown in golden.read_text()


def alerts() -> list[Json]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    return [
        target["expr"].replace("$node", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()] + dashboard_expressions()


def exported() -> set[str]:
    """The names of all metrics that the programs register."""
    agent = AgentMetrics("node")
    agent.watch(lambda: (), lambda: 0)
    agent.watch_memory(lambda: ())
    agent.watch_mps(dict, dict)
    registries: list[CollectorRegistry] = [
        WebhookMetrics().registry,
        PlannerMetrics().registry,
        agent.registry,
    ]
    found = set()
    for registry in registries:
        for family in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            found |= {family.name + s for s in suffixes.get(family.type, ("",))}
    return found


@pytest.mark.parametrize("expression", expressions())
def test_expression_is_promql_on_metrics_that_exist(expression: str) -> None:
    parse(expression)
    assert set(re.findall(r"\bmpslice_\w+", expression)) <= exported()


def test_every_alert_has_a_place_in_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", page("operations.md"), re.MULTILINE))
    assert {rule["alert"] for rule in alerts()} <= headings


def test_metrics_of_the_operations_page_exist_and_none_is_left_out() -> None:
    listed = {
        name
        for row in rows(page("operations.md"), 2)
        for name in re.findall(r"`(mpslice_\w+)`", row[0])
    }
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in exported()}
    assert listed == ours


def test_cards_are_counted_as_nos_and_as_we_do() -> None:
    cards = [row for row in rows(page("moving-from-nos.md"), 5) if row[1].isdigit()]
    assert len(cards) >= 10
    for card, memory, under_nos, ours, short in cards:
        mib = int(memory)
        assert int(under_nos) == -(-mib // 1000), card
        assert int(ours) == capacity_gb(mib, MemoryUnit.GB), card
        assert short == f"{int(under_nos) * 1024 - mib} MiB short", card


def test_every_page_says_which_kind_its_statements_are() -> None:
    for path in PAGES.glob("*.md"):
        text = path.read_text().lower()
        assert "*tested*" in text or "*documented*" in text, path.name


def test_pages_name_values_that_exist() -> None:
    known = {each.path for each in values((CHART / "values.yaml").read_text())}
    tops = {path.partition(".")[0] for path in known}
    for path in PAGES.glob("*.md"):
        text = path.read_text()
        if path.name == "moving-from-nos.md":
            text = "\n".join(row[1] for row in rows(text, 2))  # the other column is nos's
        for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)[`:]", text):
            if name.partition(".")[0] in tops and name not in ("tls.crt", "tls.key"):
                assert name in known, f"{path.name}: {name}"
