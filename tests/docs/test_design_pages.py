"""The design pages say what the programs do: reasons, causes, fields, flags, variables, keys."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cli.plan.outcome import Outcome
from cli.plan.report import report
from mpslice.flags import FlagParser
from mpslice.nodelayout import ConditionType, parse_node_layout, spec_to_json, status_to_json
from nodeagent.container import container_edits
from nodeagent.main import parser as agent_flags
from nodeagent.mps.main import parser as mps_flags
from nodeagent.settings import Compute
from planner.main import flags as planner_flags
from planner.model.plan import Cause
from tests.docs.test_pages import page, rows
from tests.nodeagent.test_container import A100, SETTINGS, slice_
from webhook.main import flags as webhook_flags
from webhook.verdicts import Reason

PROGRAMS = {
    "mpslice-webhook": webhook_flags,
    "mpslice-planner": planner_flags,
    "mpslice-nodeagent": agent_flags,
    "mpslice-nodeagent mps": mps_flags,
}


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    found = text.partition(f"## {heading}\n")[2]
    return found.partition("\n## ")[0]


def names(text: str) -> list[str]:
    """The words in backquotes of each row's first cell, in order."""
    return [
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]


def code(text: str) -> str:
    return text.partition("```yaml\n")[2].partition("```")[0]


def test_admission_page_has_every_reason_in_the_order_of_the_rules() -> None:
    assert names(section(page("design/admission.md"), "Reasons")) == [str(r) for r in Reason]


def test_planner_page_has_every_cause_of_nodes_in_their_order() -> None:
    own = {Cause.NO_NODE, Cause.GROUP, Cause.RESERVED, Cause.BACKOFF, Cause.GATED}
    told = [str(cause) for cause in Cause if cause not in own]
    assert names(section(page("design/planner.md"), "Feasibility")) == told


def test_node_layout_on_the_page_is_read_and_written_as_it_stands() -> None:
    shown = yaml.safe_load(code(page("design/nodelayout.md")))
    layout = parse_node_layout(shown)
    assert layout.status is not None
    assert spec_to_json(layout.spec) == shown["spec"]
    assert status_to_json(layout.status) == shown["status"]


def test_node_layout_page_has_every_condition() -> None:
    text = section(page("design/nodelayout.md"), "Conditions")
    assert [row[0].strip("`") for row in rows(text, 3)[1:]] == list(ConditionType)


@pytest.mark.parametrize(
    "row", rows(page("design/programs.md"), 3)[1:], ids=lambda row: " ".join(row[:2])
)
def test_flag_on_the_page_is_the_programs_own(row: list[str]) -> None:
    program, flag, default = (cell.strip("`") for cell in row)
    parser: FlagParser = PROGRAMS[program]()
    destination = flag.strip("-").replace("-", "_")
    assert destination in {action.dest for action in parser._actions}
    assert parser.get_default(destination) == default


def test_agent_page_has_every_variable_of_a_slice_container() -> None:
    settings = replace(SETTINGS, compute=Compute.PROPORTIONAL)
    edits = container_edits(A100, slice_(10), settings)
    assert names(section(page("design/agent.md"), "Inside the container")) == list(
        edits.environment
    )


def test_programs_page_has_every_key_of_the_plans_json() -> None:
    shown = names(section(page("design/programs.md"), "JSON of an offline plan"))
    assert shown == list(report(Outcome()))


def test_no_file_cites_a_page_that_is_not_there() -> None:
    checkout = Path(__file__).parents[2]
    for path in (
        *checkout.glob("*/**/*.py"),
        *checkout.glob("*.md"),
        *checkout.glob("docs/**/*.md"),
    ):
        if ".venv" in path.parts:
            continue
        for cited in re.findall(r"\b(?:docs/)?[\w/-]+\.md\b", path.read_text()):
            there = [checkout / cited, checkout / "docs" / cited, path.parent / cited]
            assert any(page.exists() for page in there), f"{path.relative_to(checkout)}: {cited}"
