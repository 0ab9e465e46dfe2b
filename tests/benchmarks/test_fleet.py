"""The large cluster that the planner is measured on, in small."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.cluster.fleet import Fleet, FleetNode, fleet
from benchmarks.cluster.load import lives
from mpslice.nodelayout import parse_node_layout
from mpslice.slices import SliceSize
from planner.decide import decide
from planner.state.parse import parse_node, parse_pod
from planner.view import Decision, View
from planner.writes.actions import Ungate

LABEL = ("nos.nebuly.com/gpu-partitioning", "mps")


def decision(made: Fleet) -> Decision:
    """What the planner would do when it finds the cluster so."""
    nodes, layouts = [], {}
    for name, each in made.nodes.items():
        node, layout = each.objects()
        nodes.append(parse_node(named(node, name)))
        layouts[name] = parse_node_layout(
            {**named(layout, name, generation=1), "status": each.status()}
        )
    pods = [parse_pod(named(pod, f"pod-{n}")) for n, pod in enumerate(made.pods())]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return decide(View(tuple(nodes), layouts, tuple(pods), LABEL, now=now))


def named(obj: dict[str, Any], uid: str, **more: Any) -> dict[str, Any]:
    created = "2026-01-01T00:00:00Z"
    metadata = {**obj["metadata"], "uid": uid, "creationTimestamp": created, **more}
    metadata.setdefault("namespace", "fleet")
    return {**obj, "metadata": metadata}


def test_nothing_is_to_be_carved_and_those_that_wait_have_no_room() -> None:
    made = fleet("fleet", 5, 60, 3, lives(None, 80))
    decided = decision(made)
    assert not decided.snapshot.set_aside
    assert [type(action) for action in decided.actions] == [Ungate] * 3
    assert {refusal.pod.name for refusal in decided.refused} == {"wait-0", "wait-1", "wait-2"}


def test_fleet_that_has_no_room_for_its_pods_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for 100 pods"):
        fleet("fleet", 1, 100, 0, lives(None, 80))


def test_node_carries_out_a_layout_and_keeps_what_is_used() -> None:
    node = FleetNode("n1")
    node.add(0, SliceSize(10), "fleet/p")
    node.add(0, SliceSize(10))
    node.add(1, SliceSize(20))
    wanted = [
        {"uuid": node.uuid(0), "slices": {"10gb": 1, "30gb": 2}},
        {"uuid": node.uuid(1), "slices": {}},
    ]
    node.carry_out({"gpus": wanted}, 2)
    assert sorted(d.size for d in node.gpus[0]) == [10, 30, 30]
    assert [pod for pod in node.gpus[0].values() if pod] == ["fleet/p"]
    assert not node.gpus[1]
    assert node.status()["observedGeneration"] == 2
    assert node.take(SliceSize(30), "fleet/q")
    assert not node.take(SliceSize(20), "fleet/r")
    node.give_back("fleet/q")
    assert node.take(SliceSize(30), "fleet/r")


def test_slices_of_a_size_have_names_of_their_own_however_they_come_and_go() -> None:
    node, dice = FleetNode("n1"), random.Random(0)
    for generation in range(2, 50):
        wanted = [{"uuid": node.uuid(0), "slices": {"10gb": dice.randrange(1, 8)}}]
        node.carry_out({"gpus": wanted}, generation)
        assert len(node.gpus[0]) == wanted[0]["slices"]["10gb"]  # type: ignore[index]
