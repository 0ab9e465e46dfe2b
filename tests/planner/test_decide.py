"""What is decided from what the cluster shows, above all when it shows something awkward."""

from collections import Counter
from collections.abc import Iterable

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuSpec,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
)
from mpslice.slices import SliceSize
from planner.actions import (
    MANAGED_LABEL,
    Action,
    CreateLayout,
    DeleteLayout,
    SetManaged,
    Ungate,
    WriteSpec,
)
from planner.decide import Decision, View, decide
from planner.model import GATE, Node, Pod, Resources, SliceClaim
from tests.planner.test_packing import gb

LABEL = ("part", "mps")
ROOM = Resources(32_000, 1 << 38)


def a_node(name: str = "n1", shows: dict[int, int] | None = None, **fields: object) -> Node:
    defaults: dict[str, object] = {
        "labels": {"part": "mps", MANAGED_LABEL: "true"},
        "allocatable": ROOM,
        "slices": gb(shows or {}),
    }
    return Node(name, uid=name, **{**defaults, **fields})  # type: ignore[arg-type]  # test data


def a_pod(name: str, size: int, *, gated: bool = True, node: str = "") -> Pod:
    gates = (GATE,) if gated and not node else ()
    claims = (SliceClaim("main", SliceSize(size), 0),)
    return Pod("default", name, uid=name, gates=gates, claims=claims, node=node)


def a_layout(
    name: str = "n1",
    *,
    spec: dict[int, int] | None = None,
    free: dict[int, int] | None = None,
    used: Iterable[tuple[int, str | None]] = (),
    generation: int = 1,
    observed: int | None = None,
    applied: bool = True,
    released: bool = False,
    release: bool = False,
) -> NodeLayout:
    """One GPU of 80 gb; without `spec` the spec is what stands."""
    gpu = GpuUuid(f"{name}-gpu")
    sizes: list[tuple[int, str | None, SliceState]] = [
        (size, None, SliceState.FREE) for size, n in (free or {}).items() for _ in range(n)
    ]
    sizes += [(size, pod, SliceState.USED) for size, pod in used]
    slices = tuple(
        SliceStatus(DeviceId(gpu, SliceSize(size), k), size, state, pod, "main" if pod else None)
        for k, (size, pod, state) in enumerate(sizes)
    )
    wanted = Counter(s.id.size for s in slices) if spec is None else gb(spec)
    status = LayoutStatus(
        generation if observed is None else observed,
        (GpuStatus(gpu, 0, "Test", 80_000, 80, slices=slices),),
        (
            Condition(ConditionType.READY, True, "Test"),
            Condition(ConditionType.APPLIED, applied, "Test"),
            Condition(ConditionType.RELEASED, released, "Test"),
        ),
    )
    specs = () if release else (GpuSpec(gpu, wanted),)
    return NodeLayout(name, LayoutSpec(specs, release), status, generation, uid=name)


def decided(
    nodes: Iterable[Node],
    layouts: Iterable[NodeLayout],
    pods: Iterable[Pod] = (),
    unreadable: Iterable[str] = (),
) -> Decision:
    by_name = {layout.name: layout for layout in layouts}
    return decide(View(tuple(nodes), by_name, tuple(pods), LABEL, unreadable=frozenset(unreadable)))


def ungated(decision: Decision) -> list[str]:
    return [action.pod.name for action in decision.actions if isinstance(action, Ungate)]


def written(decision: Decision) -> list[dict[int, int]]:
    return [
        {int(size): count for size, count in action.spec.gpus[0].slices.items()}
        for action in decision.actions
        if isinstance(action, WriteSpec)
    ]


def test_cluster_that_is_as_planned_needs_nothing() -> None:
    pods = [a_pod("p", 10, node="n1")]
    layout = a_layout(used=[(10, "default/p")], free={20: 1})
    assert decided([a_node(shows={10: 1, 20: 1})], [layout], pods).actions == ()


def test_gate_goes_once_layout_and_node_both_show_the_slice() -> None:
    layout, pod = a_layout(free={10: 1, 20: 1}), a_pod("p", 10)
    assert ungated(decided([a_node(shows={10: 1, 20: 1})], [layout], [pod])) == ["p"]
    shows_less = decided([a_node(shows={20: 1})], [layout], [pod])
    assert ungated(shows_less) == []
    assert [placement.pod.name for placement in shows_less.carving] == ["p"]


def test_slices_are_given_in_planned_order_and_each_once() -> None:
    pods = [a_pod("a", 10), a_pod("b", 10)]
    decision = decided([a_node(shows={10: 1})], [a_layout(free={10: 1})], pods)
    assert ungated(decision) == ["a"]
    assert written(decision) == [{10: 2}]


def test_slice_that_a_bound_pod_will_take_is_not_given_away() -> None:
    pods = [a_pod("bound", 10, node="n1"), a_pod("p", 10)]
    decision = decided([a_node(shows={10: 1})], [a_layout(free={10: 1})], pods)
    assert ungated(decision) == []
    assert written(decision) == [{10: 2}]


def test_slice_that_an_unacknowledged_spec_withdraws_is_not_given_away() -> None:
    layout = a_layout(spec={20: 1}, free={10: 1}, generation=2, observed=1)
    decision = decided([a_node(shows={10: 1})], [layout], [a_pod("p", 10)])
    assert ungated(decision) == []


def test_spec_that_was_refused_and_is_wanted_no_more_is_taken_back() -> None:
    layout = a_layout(spec={20: 1}, free={10: 1}, applied=False)
    decision = decided([a_node(shows={10: 1})], [layout])
    assert written(decision) == [{10: 1}]


def test_spec_that_was_refused_and_is_still_wanted_is_left_to_the_agent() -> None:
    layout = a_layout(spec={75: 1}, free={10: 1}, applied=False)
    assert decided([a_node(shows={10: 1})], [layout], [a_pod("p", 75)]).actions == ()


def test_pod_goes_elsewhere_while_an_agent_is_away() -> None:
    layouts = [a_layout("n1", free={10: 1}), a_layout("n2")]
    decision = decided([a_node("n1"), a_node("n2")], layouts, [a_pod("p", 10)])
    assert [placement.node for placement in decision.plan.placements] == ["n2"]


def test_pod_that_fits_only_where_the_agent_is_away_keeps_its_gate() -> None:
    decision = decided([a_node()], [a_layout(free={10: 1})], [a_pod("p", 10)])
    assert decision.actions == ()
    assert decision.refused == ()
    assert [placement.pod.name for placement in decision.carving] == ["p"]


def test_pod_seen_as_holder_before_its_binding_is_not_planned_again() -> None:
    layout = a_layout(used=[(10, "default/p")])
    decision = decided([a_node(shows={10: 1})], [layout], [a_pod("p", 10, gated=False)])
    assert decision.plan.placements == ()
    assert decision.actions == ()


def test_name_in_a_dead_nodes_layout_does_not_hide_a_new_pod() -> None:
    dead = a_layout("dead", used=[(10, "default/web-0")])
    nodes = [a_node("dead", ready=False), a_node("n2")]
    decision = decided(nodes, [dead, a_layout("n2")], [a_pod("web-0", 10, gated=False)])
    assert [placement.node for placement in decision.plan.placements] == ["n2"]


def test_used_slice_of_a_pod_not_known_yet_is_not_counted_twice() -> None:
    layout = a_layout(used=[(40, None)])
    pods = [a_pod("bound", 40, node="n1"), a_pod("p", 40)]
    decision = decided([a_node(shows={40: 1})], [layout], pods)
    assert [placement.pod.name for placement in decision.plan.placements] == ["p"]


def test_node_with_an_unreadable_layout_is_left_alone() -> None:
    nodes = [a_node("n1"), a_node("n2", labels={MANAGED_LABEL: "true"})]
    decision = decided(nodes, [], [a_pod("p", 10)], unreadable=["n1", "n2"])
    assert [type(action) for action in decision.actions] == [Ungate]
    assert decision.refused[0].nodes == 1


HANDED: list[tuple[str, Node, NodeLayout | None, list[type[Action]]]] = [
    ("labelled", a_node(labels={"part": "mps"}), None, [CreateLayout, SetManaged]),
    ("unlabelled", a_node(labels={MANAGED_LABEL: "true"}), a_layout(), [WriteSpec]),
    ("releasing", a_node(labels={MANAGED_LABEL: "true"}), a_layout(release=True), []),
    (
        "released",
        a_node(labels={MANAGED_LABEL: "true"}),
        a_layout(release=True, released=True),
        [DeleteLayout],
    ),
    ("deleted", a_node(labels={MANAGED_LABEL: "true"}), None, [SetManaged]),
    ("labelled again", a_node(), a_layout(release=True), [WriteSpec]),
    ("never ours", a_node(labels={}), None, []),
]


@pytest.mark.parametrize(
    ("subject", "layout", "actions"), [row[1:] for row in HANDED], ids=[row[0] for row in HANDED]
)
def test_node_is_handed_over_and_back_one_step_at_a_time(
    subject: Node, layout: NodeLayout | None, actions: list[type[Action]]
) -> None:
    decision = decided([subject], [layout] if layout else [])
    assert [type(action) for action in decision.actions] == actions


def test_agents_stay_while_a_slice_pod_is_bound_to_the_node() -> None:
    node = a_node(labels={MANAGED_LABEL: "true"})
    assert decided([node], [], [a_pod("p", 10, node="n1")]).actions == ()
