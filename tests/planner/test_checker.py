"""The checker of plans finds what a plan may not do."""

from dataclasses import replace
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from planner.model.constraints import Constraints, HostPort, PodTerm, Relations, Resources, Taint
from planner.model.nodes import NodeState
from planner.model.plan import Placement, Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.checker import could_replace, violations
from tests.planner.test_packing import gb, node, on, pod
from tests.planner.test_relations import app

CLUSTER = Snapshot((node("n1", 80, used={0: gb({20: 1})}, free={0: gb({10: 1})}), node("n2", 40)))
PODS = [pod("a", 10), pod("b", 40)]
GOOD = plan(CLUSTER, PODS)


def moved(made: Plan, name: str, node: str, gpu: str | None = None) -> Plan:
    """The plan with a pod on another node's GPU."""
    uuid = GpuUuid(gpu or f"{node}-0")
    placements = (
        p._replace(node=node, gpus=(uuid,) * len(p.gpus)) if p.pod.name == name else p
        for p in made.placements
    )
    return replace(made, placements=tuple(placements))


def layout(**slices: dict[int, int]) -> dict[str, dict[GpuUuid, Any]]:
    return {name: {GpuUuid(f"{name}-0"): gb(each)} for name, each in slices.items()}


def test_good_plan_has_no_violation() -> None:
    assert len(GOOD.placements) == 2
    assert violations(CLUSTER, PODS, GOOD) == []


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (replace(GOOD, placements=()), "default/a is pending 1 times and answered 0 times"),
        (moved(GOOD, "a", "n3"), "pods are placed on n3, which is no node"),
        (moved(GOOD, "a", "n1", "n2-0"), "default/a is placed on n2-0, which n1 has not"),
        (moved(GOOD, "a", "n2"), "1 slices of 10gb are held on n2-0: 0 exist"),
        (
            replace(GOOD, layouts=layout(n1={10: 1}, n2={40: 1})),
            "1 slices of 20gb are held on n1-0: 0 exist",
        ),
        (
            replace(GOOD, layouts=layout(n2={40: 1, 1: 1})),
            "41gb are carved on n2-0, which has 40gb",
        ),
        (
            replace(GOOD, layouts=layout(n1={10: 1, 20: 1}, n2={40: 1})),
            "n1 is written though it does not change",
        ),
        (replace(GOOD, withdrawn=1), "0 free slices are withdrawn, the plan says 1"),
        (replace(GOOD, layouts=layout(n9={1: 1})), "n9 has a layout and is no node"),
    ],
    ids=str,
)
def test_plan_that_does_not_add_up_is_found(made: Plan, sentence: str) -> None:
    assert sentence in violations(CLUSTER, PODS, made)


def test_slice_withdrawn_without_need_is_found() -> None:
    made = Plan((Placement(PODS[0], "n1", (GpuUuid("n1-0"),)),), layouts=layout(n1={20: 1, 10: 1}))
    cluster = Snapshot((node("n1", 80, used={0: gb({20: 1})}, free={0: gb({30: 1})}),))
    assert violations(cluster, PODS[:1], replace(made, withdrawn=1)) == [
        "a slice of 30gb is withdrawn on n1-0 without need"
    ]


def test_more_slices_than_a_gpu_may_have_are_found() -> None:
    cluster = Snapshot((node("n1", 80),), max_slices_per_gpu=2)
    pods = [pod(f"p{number}", 1) for number in range(3)]
    placements = tuple(Placement(each, "n1", (GpuUuid("n1-0"),)) for each in pods)
    made = Plan(placements, layouts=layout(n1={1: 3}))
    assert violations(cluster, pods, made) == ["3 slices stand on n1-0, of at most 2"]


@pytest.mark.parametrize(
    ("state", "asked", "words"),
    [
        (node("n1", 80, idle=Resources(1000, 1)), {"requests": Resources(501)}, "1002 cpu"),
        (node("n1", 80, idle=Resources(0, 9)), {"requests": Resources(0, 5)}, "10 memory"),
        (
            node("n1", 80),
            {"requests": Resources(extended=(("example.com/x", 1),))},
            "2 example.com/x",
        ),
        (replace(node("n1", 80), idle_pods=1), {}, "2 pods on n1"),
        (node("n1", 80), {"ports": (HostPort(80),)}, "port 80 of default/p1 is taken"),
        (node("n1", 80), {"constraints": on("n2")}, "does not match n1"),
        (node("n1", 80), {"constraints": Constraints(affinity=())}, "does not match n1"),
        (node("n1", 80), {"avoid": frozenset({"n1"})}, "which it avoids"),
        (node("n1", 80, ready=False), {}, "which is not ready"),
        (node("n1", 80, unschedulable=True), {}, "does not tolerate"),
        (node("n1", 80, taints=(Taint("x", "", "NoExecute"),)), {}, "does not tolerate x"),
        (
            node("n1", 80),
            {
                "labels": {"app": "web"},
                "relations": Relations(
                    anti_affinity=(PodTerm("host", app("web"), frozenset({"default"})),)
                ),
            },
            "the relations of default/p1 keep it from n1",
        ),
        (node("n1", 80), {"group": "g", "min_member": 3}, "2 of group default/g are placed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pods_that_may_not_stand_there_together_are_found(
    state: NodeState, asked: dict[str, Any], words: str
) -> None:
    pods = [pod(f"p{number}", 1, **asked) for number in range(2)]
    placements = tuple(Placement(each, "n1", (GpuUuid("n1-0"),)) for each in pods)
    found = violations(Snapshot((state,)), pods, Plan(placements, layouts=layout(n1={1: 2})))
    assert any(words in sentence for sentence in found), found


def test_pod_whose_place_another_could_have_is_told_from_one_that_it_could_not() -> None:
    low, high = pod("low", 30), pod("high", 35, priority=1)
    cluster = Snapshot((node("n1", 40),))
    placement = Placement(low, "n1", (GpuUuid("n1-0"),))
    made = Plan((placement,), layouts=layout(n1={30: 1}))
    assert could_replace(cluster, made, high, placement)
    assert not could_replace(cluster, made, pod("larger", 41, priority=1), placement)
    assert not could_replace(cluster, made, Pod("default", "x", avoid=frozenset({"n1"})), placement)
