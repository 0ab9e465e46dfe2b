"""What is decided from what the cluster shows, above all when it shows something awkward."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    STOPPING,
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
from planner.decide import decide
from planner.model.constraints import Constraints, Resources
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import GATE, Available, Pod, SliceClaim
from planner.state.absence import Absence
from planner.view import Decision, View
from planner.writes.actions import (
    MANAGED_LABEL,
    Action,
    CreateLayout,
    DeleteLayout,
    Inform,
    Nominate,
    SetManaged,
    Ungate,
    WriteSpec,
)
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


def not_ready(layout: NodeLayout, reason: str) -> NodeLayout:
    assert layout.status is not None
    others = (c for c in layout.status.conditions if c.type is not ConditionType.READY)
    conditions = (*others, Condition(ConditionType.READY, False, reason))
    return replace(layout, status=replace(layout.status, conditions=conditions))


def decided(
    nodes: Iterable[Node],
    layouts: Iterable[NodeLayout],
    pods: Iterable[Pod] = (),
    unreadable: Iterable[str] = (),
    away: Iterable[str] = (),
) -> Decision:
    by_name = {layout.name: layout for layout in layouts}
    named = dict.fromkeys(unreadable, "NodeLayout n1: spec is no spec")
    absences = dict.fromkeys(away, Absence())
    view = View(tuple(nodes), by_name, tuple(pods), LABEL, unreadable=named, away=absences)
    return decide(view)


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


def test_nothing_is_written_to_a_node_that_contradicts_itself() -> None:
    layout = a_layout(spec={20: 1}, used=[(50, "default/a"), (50, "default/b")], applied=False)
    decision = decided([a_node()], [layout])
    assert decision.snapshot.set_aside.keys() == {"n1"}
    assert decision.actions == ()


def test_spec_that_was_refused_and_is_still_wanted_is_left_to_the_agent() -> None:
    layout = a_layout(spec={75: 1}, free={10: 1}, applied=False)
    assert decided([a_node(shows={10: 1})], [layout], [a_pod("p", 75)]).actions == ()


def test_pod_goes_elsewhere_while_an_agent_is_away() -> None:
    layouts = [a_layout("n1", free={10: 1}), a_layout("n2")]
    nodes = [a_node("n1"), a_node("n2")]
    decision = decided(nodes, layouts, [a_pod("p", 10)], away=["n1"])
    assert [placement.node for placement in decision.plan.placements] == ["n2"]


def test_slice_that_the_node_does_not_show_yet_is_waited_for() -> None:
    layouts = [a_layout("n1", spec={10: 1}, free={10: 1}), a_layout("n2")]
    decision = decided([a_node("n1"), a_node("n2")], layouts, [a_pod("p", 10)])
    assert decision.actions == ()
    assert [placement.node for placement in decision.carving] == ["n1"]


def test_pod_that_fits_only_where_the_agent_is_away_keeps_its_gate() -> None:
    decision = decided([a_node()], [a_layout(free={10: 1})], [a_pod("p", 10)], away=["n1"])
    assert decision.actions == ()
    assert [refusal.reason for refusal in decision.refused] == ["NotReady"]
    assert decision.carving == ()
    assert [placement.node for placement in decision.planned.values()] == ["n1"]


def test_pod_that_fits_only_where_the_agent_says_goodbye_keeps_its_gate() -> None:
    """It is waited for with what its GPUs hold, though the node is not served now."""
    layout = not_ready(a_layout(used=[(70, "default/other")]), STOPPING)
    pods = [a_pod("small", 10), a_pod("large", 20)]
    decision = decided([a_node()], [layout], pods, away=["n1"])
    assert [placement.pod.name for placement in decision.patient] == ["small"]
    assert ungated(decision) == ["large"]


def test_agent_that_is_not_waited_for_any_more_keeps_no_gate() -> None:
    gone = {"n1": Absence(awaited=False, problem="its node agent has been away")}
    layouts = {"n1": a_layout(free={10: 1})}
    decision = decide(View((a_node(),), layouts, (a_pod("p", 10),), LABEL, away=gone))
    assert ungated(decision) == ["p"]
    assert decision.away == {"n1": "its node agent has been away"}


def test_pod_seen_as_holder_before_its_binding_counts_as_bound() -> None:
    """Its CPU is gone with it, though the pod is shown without a node still."""
    pods = [replace(a_pod(name, 10, gated=False), requests=Resources(30_000)) for name in "pq"]
    layout = a_layout(used=[(10, "default/p")])
    planned = {"p": Placement(pods[0], "n1", (GpuUuid("n1-gpu"),))}
    view = View((a_node(shows={10: 1}),), {"n1": layout}, tuple(pods), LABEL, planned=planned)
    decision = decide(view)
    assert decision.plan.placements == ()
    assert [(r.pod.name, r.reason) for r in decision.refused] == [("q", "CPU")]
    assert decision.actions == ()


def test_slice_of_an_older_pod_of_its_name_does_not_hide_a_pod() -> None:
    """A pod deleted by force leaves its processes, and they the slice."""
    nodes = [a_node("n1", shows={80: 1}), a_node("n2")]
    layouts = [a_layout("n1", used=[(80, "default/web-0")]), a_layout("n2")]
    decision = decided(nodes, layouts, [a_pod("web-0", 80, gated=False)])
    assert [placement.node for placement in decision.plan.placements] == ["n2"]


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
    (
        "handed back before an agent was there",
        a_node(labels={MANAGED_LABEL: "true"}),
        replace(a_layout(release=True), status=None),
        [DeleteLayout],
    ),
    ("releasing without agents", a_node(labels={}), a_layout(release=True), [SetManaged]),
    ("deleted", a_node(labels={MANAGED_LABEL: "true"}), None, [SetManaged]),
    ("labelled again", a_node(), a_layout(release=True), [WriteSpec]),
    ("labelled again, released", a_node(), a_layout(release=True, released=True), [WriteSpec]),
    (
        "released before it saw the last spec",
        a_node(labels={MANAGED_LABEL: "true"}),
        a_layout(release=True, released=True, generation=3, observed=2),
        [],
    ),
    ("without the managed label", a_node(labels={"part": "mps"}), a_layout(), [SetManaged]),
    (
        "managed by other words",
        a_node(labels={"part": "mps", MANAGED_LABEL: "no"}),
        a_layout(),
        [SetManaged],
    ),
    (
        "another node, labelled",
        a_node(),
        replace(a_layout(), owner_uid="old"),
        [DeleteLayout],
    ),
    (
        "another node, not labelled",
        a_node(labels={}),
        replace(a_layout(release=True), owner_uid="old"),
        [DeleteLayout],
    ),
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


def nominated(decision: Decision) -> dict[str, str]:
    return {a.pod.name: a.node for a in decision.actions if isinstance(a, Nominate)}


def groups_of_two(*pods: Pod, shows: int) -> Decision:
    layout = a_layout(free={10: shows} if shows else {})
    view = View((a_node(shows={10: shows}),), {"n1": layout}, pods, LABEL)
    return decide(replace(view, minimums={"default/g": 2}))


def test_group_keeps_its_gates_until_the_slices_of_its_minimum_are_bindable() -> None:
    members = [replace(a_pod(name, 10), group="g") for name in "ab"]
    half = groups_of_two(*members, shows=1)
    assert ungated(half) == []
    assert [placement.pod.name for placement in half.carving] == ["a", "b"]
    assert ungated(groups_of_two(*members, shows=2)) == ["a", "b"]


def test_group_that_does_not_fit_stays_gated_while_a_lone_pod_is_let_go() -> None:
    pods = [replace(a_pod("member", 90), group="g"), a_pod("lone", 90)]
    decision = groups_of_two(*pods, shows=0)
    assert ungated(decision) == ["lone"]
    assert {refusal.pod.name for refusal in decision.refused} == {"member", "lone"}


def test_rest_of_a_group_goes_when_a_planner_ended_in_the_middle() -> None:
    gone = replace(a_pod("a", 10, node="n1"), group="g")
    rest = replace(a_pod("b", 10), group="g")
    layout = a_layout(used=[(10, "default/a")], free={10: 1})
    view = View((a_node(shows={10: 2}),), {"n1": layout}, (gone, rest), LABEL)
    assert ungated(decide(replace(view, minimums={"default/g": 2}))) == ["b"]


RIVAL = a_pod("rival", 10, gated=False)
ALONE = replace(RIVAL, constraints=Constraints(node_selector=(("zone", "other"),)))


def contended(pod: Pod, *, rival: Pod = RIVAL, unnominable: str = "") -> Decision:
    """One slice that stands free, and a gated pod that is older than a rival without a gate."""
    layout = a_layout(free={10: 1}, used=[(70, "default/other")])
    pods = (replace(pod, created="2026-01-01T00:00:00Z"), replace(rival, created="2026-02-01"))
    view = View((a_node(shows={10: 1, 70: 1}),), {"n1": layout}, pods, LABEL)
    return decide(replace(view, unnominable=frozenset({unnominable})))


def test_gate_goes_only_once_the_scheduler_keeps_the_slice_from_a_rival() -> None:
    pod = a_pod("p", 10)
    first = contended(pod)
    assert nominated(first) == {"p": "n1"}
    assert ungated(first) == []
    then = contended(replace(pod, nominated="n1"))
    assert nominated(then) == {}
    assert ungated(then) == ["p"]


def test_rival_that_is_about_to_lose_its_gate_waits_for_the_nomination() -> None:
    decision = contended(a_pod("p", 10), rival=replace(RIVAL, gates=(GATE,)))
    assert nominated(decision) == {"p": "n1"}
    assert ungated(decision) == []


def test_pod_without_rivals_is_not_nominated() -> None:
    decision = contended(a_pod("p", 10), rival=ALONE)
    assert nominated(decision) == {}
    assert ungated(decision) == ["p"]


def test_pod_that_may_not_be_nominated_is_let_go_all_the_same() -> None:
    decision = contended(a_pod("p", 10), unnominable="p")
    assert nominated(decision) == {}
    assert ungated(decision) == ["p"]


def test_placement_is_on_trial_once_the_gate_goes_and_its_slices_are_there() -> None:
    layout = a_layout(free={10: 1})
    pods = [a_pod("gated", 10), a_pod("loose", 10, gated=False)]
    decision = decided([a_node(shows={10: 1})], [layout], pods[1:])
    assert [placement.pod.name for placement in decision.standing] == ["loose"]
    going = decided([a_node(shows={10: 1})], [layout], pods[:1])
    assert [placement.pod.name for placement in going.standing] == ["gated"]
    assert decided([a_node()], [a_layout()], pods[1:]).standing == ()


def test_slice_pods_behind_other_gates_are_counted() -> None:
    other = replace(a_pod("p", 10), gates=(GATE, "example.com/quota"))
    decision = decided([a_node()], [a_layout()], [other, replace(other, terminating=True)])
    assert decision.gated == (other,)


def test_layout_of_a_deleted_node_of_the_same_name_is_not_planned_on() -> None:
    layout = replace(a_layout(free={10: 1}), owner_uid="old")
    decision = decided([a_node(shows={10: 1})], [layout], [a_pod("p", 10)])
    assert decision.plan.placements == ()
    assert [a for a in decision.actions if not isinstance(a, Ungate)] == [DeleteLayout(layout)]


def test_node_that_cannot_be_read_is_set_aside_counted_and_left_alone() -> None:
    bad = a_node("n1", labels={"part": "mps"}, ready=False, problem="no number")
    decision = decided([bad, a_node("n2")], [a_layout("n2")], [a_pod("p", 500)])
    assert decision.snapshot.set_aside == {"n1": "no number"}
    assert decision.refused[0].nodes == 2
    assert [type(action) for action in decision.actions] == [Ungate]


def test_without_gates_every_pod_is_let_go_at_once() -> None:
    view = View((a_node(),), {"n1": a_layout()}, (a_pod("p", 10), a_pod("huge", 500)), LABEL)
    assert ungated(decide(replace(view, gate=False))) == ["p", "huge"]


def test_layouts_are_written_before_pods_are_told_anything() -> None:
    """Pods wait for the one, and a burst has hundreds of the other."""
    told = Available(False, "GPUMemory", "10gb", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    pods = (replace(a_pod("there", 20, node="n1"), available=told), a_pod("p", 10))
    view = View((a_node(),), {"n1": a_layout(used=[(20, "default/there")])}, pods, LABEL)
    actions = decide(replace(view, now=datetime(2026, 1, 2, tzinfo=UTC))).actions
    assert [type(action) for action in actions] == [WriteSpec, Inform]
