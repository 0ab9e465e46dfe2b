"""The cluster benchmark itself, short: do the programs and its figures make sense together?"""

from argparse import Namespace

from benchmarks import planner_at_scale
from benchmarks.cluster.__main__ import measure
from benchmarks.cluster.audit import OURS
from benchmarks.cluster.figures import Figures
from benchmarks.cluster.lone import FLOOR, KINDS
from benchmarks.cluster.run import STEADY_FLOOR, Options
from benchmarks.cluster.table import lines
from hack.cluster.parts import Parts
from hack.cluster.progress import Say

# Of which 7 or so are there when the steady part begins, and as many come.
SHORT = Options(
    10,
    lone=2,
    burst=8,
    rate=3,
    seconds=2,
    load=0.05,
    waiting=2,
    waiting_gb=81,
    quiet=0.3,
    patience=60,
)
LIFE = {"gate", "layout", "layout status", "node status", "pod condition, nomination"}


async def test_a_short_run_tells_what_pods_cost(cluster_parts: Parts, cluster_say: Say) -> None:
    figures = await measure(SHORT, cluster_parts, cluster_say)
    parts = {part["name"]: part for part in figures["parts"]}

    for name in ("scheduler alone", FLOOR, *KINDS, "burst", STEADY_FLOOR, "fill", "steady"):
        assert parts[name]["pods"] > 0
        assert parts[name]["bound"]["pods"] == parts[name]["pods"], name
        assert parts[name]["bound"]["median_ms"] <= parts[name]["bound"]["p99_ms"]
    assert parts["unplaceable"]["told"]["pods"] == 2
    assert parts["unplaceable"]["bound"]["pods"] == 0
    assert set(figures["harm"].values()) == {0}

    writes_are_those_of_a_life(parts["burst"])
    for part in parts.values():
        # Only what a watch that was cut has to be made up for.
        assert sum(part["lists_again"].values()) <= part["watches_again"], part["lists_again"]
        if part["name"] not in ("scheduler alone", FLOOR, STEADY_FLOOR):
            components_cost_something(part)
    assert figures["flow"]["served"] > 0, "the chart's FlowSchema takes mpslice's requests"
    assert figures["flow"]["refused"] == 0
    over_time = figures["gpus_over_time"]
    assert 0 <= over_time["used_percent"] <= over_time["bound_percent"] <= 100
    for kind in KINDS:
        assert figures["ratios"][f"{kind} median_ms"] > 1
    assert "steady p99 beyond the scheduler's own, s" in figures["ratios"]
    assert any("writes a pod" in line for line in lines(figures))


async def test_a_short_run_tells_what_a_standing_cluster_costs_the_planner(
    cluster_parts: Parts, cluster_say: Say
) -> None:
    options = Namespace(nodes=8, pods=100, rate=9.0, seconds=8.0)
    found = await planner_at_scale.measure(options, cluster_parts, cluster_say)

    assert 0 < found["start_to_first_plan_cpu_s"] < found["start_to_first_plan_s"] * 4
    assert found["most_mib"] > 20
    assert found["at_rest"]["decisions_a_second"] <= found["busy"]["decisions_a_second"]
    assert found["busy"]["pod_events_a_second"] > 0
    assert found["busy"]["ms_a_decision"] > 0
    assert found["lived"] > 0
    assert set(found["harm"].values()) == {0}
    assert any("most memory" in line for line in planner_at_scale.lines(found))


def writes_are_those_of_a_life(part: Figures) -> None:
    """A pod whose slice is new: its gate once, and at most one write of the node for it."""
    writes = part["writes"]
    assert set(writes) <= LIFE
    assert 0 < writes["gate"] <= 1
    assert 0 < writes["layout"] <= 1
    assert 0 < writes["node status"] <= 1
    assert 0 < writes["layout status"] <= 2  # it stands, and it is used


def components_cost_something(part: Figures) -> None:
    components = part["components"]
    assert {*OURS, "etcd", "kube-apiserver", "kube-scheduler"} <= set(components)
    assert sum(cost["cpu_ms_a_pod"] for cost in components.values()) > 0
    for name in OURS:
        assert components[name]["mib"] > 20
        assert components[name]["kib_a_pod"] >= 0
    assert components["planner"]["requests_a_pod"] > 0.5
    assert components["agents"]["requests_a_pod"] >= 0
