"""The dashboards are what Grafana reads, and ask for metrics and rules that exist."""

import json
import re
from pathlib import Path

import pytest
from promql_parser import parse

from tests.prometheus.charted import DASHBOARDS, Query, groups, queries, recordings
from tests.prometheus.exported import names, plain

_OURS = re.compile(r"\b(?:[a-z]+:)?mpslice_\w+(?::\w+)?")


@pytest.mark.parametrize("query", queries(), ids=str)
def test_query_is_promql_on_metrics_and_rules_that_exist(query: Query) -> None:
    parse(query.expression)
    assert "$" not in query.expression
    assert set(_OURS.findall(query.expression)) <= names() | {r["record"] for r in recordings()}


def test_expressions_of_rules_are_on_metrics_and_rules_that_exist() -> None:
    for group in groups():
        for rule in group["rules"]:
            known = names() | {r["record"] for r in recordings()}
            assert set(_OURS.findall(rule["expr"])) <= known, rule


def test_every_metric_of_our_own_is_on_a_dashboard_or_in_a_rule() -> None:
    """A metric that nobody looks at is one that nobody misses."""
    expressions = [query.expression for query in queries()]
    expressions += [rule["expr"] for group in groups() for rule in group["rules"]]
    shown = {name for expression in expressions for name in _OURS.findall(expression)}
    unseen = {plain(name) for name in names()} - {plain(name) for name in shown}
    assert unseen == {
        # Each is a cause to look into the log, or has an Event on a pod; none is a line to watch.
        "mpslice_pods_preempted_total",
        "mpslice_solver_fallbacks_total",
        "mpslice_withdrawals_planned_total",
    }


def test_there_is_one_dashboard_for_the_cluster_one_for_nodes_one_for_teams() -> None:
    assert [path.stem for path in DASHBOARDS] == ["cluster", "node", "team"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_told_apart_and_do_not_overlap(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert all(0 <= x < 24 for x, _ in cells), panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    for panel in json.loads(path.read_text())["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
