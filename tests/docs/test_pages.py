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

from hack.chart_values import values
from mpslice.gpus import MemoryUnit, capacity_gb
from planner.model.plan import Cause
from tests.chart import CHART
from tests.docs.blocks import PAGES, Command, commands
from tests.prometheus.charted import DASHBOARDS, alerts, recordings
from tests.prometheus.exported import registries
from tests.waiting import DEADLINE
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
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE, env=environment
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "values.html").read_text()
    assert "mps.userID" in text
    for html in tmp_path.rglob("*.html"):
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


@pytest.mark.parametrize("command", commands("plan.md"), ids=lambda command: command.title)
def test_plan_prints_what_its_page_shows(command: Command) -> None:
    typed = command.text.replace("kubectl mpslice", f"{sys.executable} -m cli.main")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8", "TERM": "xterm"}
    done = subprocess.run(
        ["sh", "-c", typed],
        cwd=CHECKOUT,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        env=environment,
    )
    assert command.missing(done.stdout) == [], done.stdout + done.stderr


def test_messages_on_the_pages_are_the_programs_own() -> None:
    (shown,) = [
        line.partition("MultipleSlices: ")[2]
        for command in commands("user-guide.md")
        for line in command.shown
        if "MultipleSlices" in line
    ]
    golden = CHECKOUT / "tests" / "webhook" / "golden" / "answers.txt"
    assert shown in golden.read_text()


def test_every_alert_has_a_place_in_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", page("operations.md"), re.MULTILINE))
    assert {rule["alert"] for rule in alerts()} <= headings


def test_metrics_page_lists_every_metric_with_its_type_and_labels() -> None:
    """A metric that two programs export is listed once for each."""
    listed = {
        (name.strip("`"), kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, _, labels, _ in rows(page("metrics.md"), 5)
        if name != "metric"
    }
    exported = set()
    for registry in registries().values():
        for family in registry.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for each in family.samples for label in each.labels} - {"le"}
            exported.add((name, family.type, tuple(sorted(labels))))
    assert {(name, kind, tuple(sorted(labels))) for name, kind, labels in listed} == exported


def test_metrics_page_lists_every_recording_rule_and_dashboard() -> None:
    text = page("metrics.md")
    listed = {row[0].strip("`") for row in rows(text, 3) if ":" in row[0]}
    assert listed == {rule["record"] for rule in recordings()}
    titles = {json.loads(path.read_text())["title"] for path in DASHBOARDS}
    assert titles == {row[0] for row in rows(text, 3) if row[0].startswith("mpslice /")}


def test_cards_are_counted_as_nos_and_as_we_do() -> None:
    cards = [row for row in rows(page("moving-from-nos.md"), 5) if row[1].isdigit()]
    assert len(cards) >= 10
    for card, memory, under_nos, ours, short in cards:
        mib = int(memory)
        assert int(under_nos) == -(-mib // 1000), card
        assert int(ours) == capacity_gb(mib, MemoryUnit.GB), card
        assert short == f"{int(under_nos) * 1024 - mib} MiB short", card


def test_every_page_says_which_kind_its_statements_are() -> None:
    for path in PAGES.rglob("*.md"):
        text = path.read_text().lower()
        assert "*tested*" in text or "*documented*" in text, path.name


def test_pages_name_values_that_exist() -> None:
    known = {each.path for each in values((CHART / "values.yaml").read_text())}
    tops = {path.partition(".")[0] for path in known}
    for path in PAGES.rglob("*.md"):
        text = path.read_text()
        if path.name == "moving-from-nos.md":
            text = "\n".join(row[1] for row in rows(text, 2))  # the other column is nos's
        for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)[`:]", text):
            if name.partition(".")[0] in tops and name not in ("tls.crt", "tls.key"):
                assert name in known, f"{path.name}: {name}"


def test_pages_name_the_oldest_kubernetes_that_the_chart_accepts() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    oldest = re.fullmatch(r">=(1\.\d+)\.0-0", chart["kubeVersion"])
    assert oldest is not None
    named = {
        name: re.findall(r"Kubernetes (1\.\d+) or later", page(f"{name}.md"))
        for name in ("install", "quick-start")
    }
    assert named == {"install": [oldest[1]], "quick-start": [oldest[1]]}
