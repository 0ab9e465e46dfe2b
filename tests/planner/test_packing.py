"""The plan: greedy best fit over GPUs, with what must hold for any input."""

from dataclasses import replace
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model.constraints import Constraints, HostPort, Resources, Taint
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.plan import Cause, Plan
from planner.model.pods import Pod, SliceClaim
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.words.explain import refusal_text
from tests.planner.checker import violations

LABEL = "nos.nebuly.com/gpu-partitioning=mps"
ROOM = Resources(cpu_milli=32_000, memory=1 << 38)


def node(
    name: str,
    *capacities: int,
    used: dict[int, Slices] | None = None,
    free: dict[int, Slices] | None = None,
    idle: Resources = ROOM,
    **fields: Any,
) -> NodeState:
    gpus = tuple(
        Gpu(
            GpuUuid(f"{name}-{index}"),
            index,
            capacity,
            used=(used or {}).get(index, {}),
            free=(free or {}).get(index, {}),
        )
        for index, capacity in enumerate(capacities)
    )
    return NodeState(Node(name, labels={"host": name}, **fields), gpus, idle)


def pod(name: str, *sizes: int, **fields: Any) -> Pod:
    claims = tuple(SliceClaim(f"c{seat}", SliceSize(size), seat) for seat, size in enumerate(sizes))
    return Pod("default", name, uid=name, claims=claims, **fields)


def on(host: str) -> Constraints:
    return Constraints(node_selector=(("host", host),))


def where(made: Plan) -> dict[str, str]:
    return {p.pod.name: p.node for p in made.placements}


def gb(sizes: dict[int, int]) -> Slices:
    return {SliceSize(size): count for size, count in sizes.items()}


def test_tightest_gpu_that_suffices_is_carved() -> None:
    made = plan(Snapshot((node("n1", 80), node("n2", 24), node("n3", 40))), [pod("p", 20)])
    assert where(made) == {"p": "n2"}
    assert made.layouts == {"n2": {"n2-0": gb({20: 1})}}


def test_standing_free_slice_is_used_before_anything_is_carved() -> None:
    nodes = (node("n1", 20), node("n2", 80, free={0: gb({20: 1})}))
    made = plan(Snapshot(nodes), [pod("p", 20)])
    assert where(made) == {"p": "n2"}
    assert made.layouts == {}


def test_free_slice_on_a_cordoned_node_does_not_count() -> None:
    nodes = (node("n1", 80, free={0: gb({10: 1})}, unschedulable=True), node("n2", 80))
    assert where(plan(Snapshot(nodes), [pod("p", 10)])) == {"p": "n2"}


def test_free_slices_are_withdrawn_only_as_far_as_there_is_need() -> None:
    nodes = (node("n1", 80, used={0: gb({30: 1})}, free={0: gb({10: 2, 20: 1})}),)
    made = plan(Snapshot(nodes), [pod("p", 25)])
    # 10 gb are uncarved: 15 more are needed, and one slice of 20 gives them.
    assert made.withdrawn == 1
    assert made.layouts == {"n1": {"n1-0": gb({10: 2, 25: 1, 30: 1})}}


def test_free_slice_that_a_pending_pod_asks_for_is_the_last_to_go() -> None:
    nodes = (node("n1", 60, free={0: gb({20: 1, 21: 1})}),)
    made = plan(Snapshot(nodes), [pod("a", 39), pod("b", 20)])
    assert where(made) == {"a": "n1", "b": "n1"}
    assert made.layouts["n1"]["n1-0"] == gb({20: 1, 39: 1})  # type: ignore[index]  # a str is a uuid


def test_free_slices_that_nobody_asks_for_go_before_one_that_a_pod_asks_for() -> None:
    """Two of three have to go, for three is the limit: none alone has the memory."""
    nodes = (node("n1", 48, free={0: gb({5: 1, 10: 1, 20: 1})}),)
    pods = [pod("two", 16, 25), pod("none", 5, constraints=on("n2"))]
    made = plan(Snapshot(nodes, max_slices_per_gpu=3), pods)
    assert made.layouts == {"n1": {"n1-0": gb({5: 1, 16: 1, 25: 1})}}
    assert made.withdrawn == 2


def test_free_slice_that_is_to_go_first_stays_if_those_after_it_suffice() -> None:
    nodes = (node("n1", 50, free={0: gb({5: 1, 19: 1, 20: 1})}),)
    elsewhere = on("n2")
    pods = [pod("p", 44), pod("q", 19, constraints=elsewhere), pod("r", 20, constraints=elsewhere)]
    assert plan(Snapshot(nodes), pods).layouts == {"n1": {"n1-0": gb({5: 1, 44: 1})}}


def test_free_slice_stays_where_the_rest_of_the_gpu_just_suffices() -> None:
    made = plan(Snapshot((node("n1", 40, free={0: gb({10: 1})}),)), [pod("p", 30)])
    assert made.layouts == {"n1": {"n1-0": gb({10: 1, 30: 1})}}


@pytest.mark.parametrize(
    ("sizes", "gpus", "minimum", "placed"),
    [
        ([20, 15, 15], [30], 2, {"p1", "p2"}),  # the small ones are enough
        ([10, 20, 20], [30, 20], 3, {"p0", "p1", "p2"}),  # the large ones have to go first
    ],
)
def test_group_is_placed_if_its_minimum_fits_in_another_order_than_by_age(
    sizes: list[int], gpus: list[int], minimum: int, placed: set[str]
) -> None:
    pods = [pod(f"p{n}", gb, group="g", min_member=minimum) for n, gb in enumerate(sizes)]
    made = plan(Snapshot((node("n1", *gpus),)), pods)
    assert {placement.pod.name for placement in made.placements} == placed


def test_a_pod_of_a_group_that_is_given_twice_is_two_members() -> None:
    first, twice = (pod(name, 10, group="g", min_member=2) for name in ("first", "twice"))
    made = plan(Snapshot((node("n1", 20),)), [first, twice, twice])
    assert [placement.pod.name for placement in made.placements] == ["first", "twice"]
    assert [refusal.pod.name for refusal in made.refusals] == ["twice"]


def test_used_slice_is_never_withdrawn() -> None:
    made = plan(Snapshot((node("n1", 80, used={0: gb({70: 1})}),)), [pod("p", 20)])
    assert made.placements == ()
    assert made.layouts == {}


def test_higher_priority_goes_first_then_the_older() -> None:
    pods = [
        pod("young", 50, created="2026-01-01T00:00:02Z"),
        pod("old", 50, created="2026-01-01T00:00:01Z"),
        pod("urgent", 50, created="2026-01-01T00:00:03Z", priority=10),
    ]
    made = plan(Snapshot((node("n1", 80), node("n2", 80))), pods)
    assert where(made) == {"urgent": "n1", "old": "n2"}


def test_all_slices_of_a_pod_are_on_one_node_or_none_is_made() -> None:
    nodes = (node("n1", 40), node("n2", 24, 24))
    made = plan(Snapshot(nodes), [pod("two", 20, 24), pod("three", 30, 30)])
    assert where(made) == {"two": "n2"}
    assert set(made.layouts) == {"n2"}


def test_pods_that_gave_way_in_vain_are_where_they_were() -> None:
    """One of them in turn, for another that found no place all the same."""
    nodes = (
        node("n0", 25, 35, free={0: gb({5: 3, 10: 1}), 1: gb({20: 1, 5: 1, 10: 1})}),
        node("n1", 35, free={0: gb({20: 1, 5: 1, 10: 1})}),
    )
    pods = [
        pod("p8", 5, 10, created="2026-01-01T11:59:04Z", constraints=on("n0")),
        pod("p0", 5, 20, 10, created="2026-01-01T11:59:28Z"),
        pod("p2", 20, 5, created="2026-01-01T11:59:29Z"),
        pod("p3", 10, 10, created="2026-01-01T11:59:35Z"),
    ]
    snapshot = Snapshot(nodes)
    assert violations(snapshot, pods, plan(snapshot, pods)) == []


def test_gpu_takes_no_more_slices_than_mps_serves() -> None:
    nodes = (node("n1", 80),)
    pods = [pod(f"p{i}", 1) for i in range(50)]
    made = plan(Snapshot(nodes, max_slices_per_gpu=48), pods)
    assert len(made.placements) == 48
    assert made.refusals[0].causes == ((Cause.GPU_SLOTS, 1),)


@pytest.mark.parametrize(
    ("node", "sizes", "cause"),
    [
        pytest.param(node("n1", 80), [1] * 50, Cause.GPU_SLOTS, id="more slices than a GPU has"),
        pytest.param(node("n1", 80), [50, 40], Cause.GPU_TOO_SMALL, id="more gb than a GPU has"),
        pytest.param(node("n1", 80, 40), [50, 40], None, id="a GPU for each"),
        pytest.param(
            node("n1", 80, used={0: gb({10: 1})}), [1] * 72, Cause.GPU_MEMORY, id="memory is short"
        ),
        pytest.param(
            node("n1", 80, used={0: gb({1: 40})}), [1] * 9, Cause.GPU_SLOTS, id="few slots are left"
        ),
    ],
)
def test_what_a_node_lacks_for_several_slices_is_told_of_all_of_them(
    node: NodeState, sizes: list[int], cause: Cause | None
) -> None:
    made = plan(Snapshot((node,), max_slices_per_gpu=48), [pod("p", *sizes)])
    assert [dict(refusal.causes) for refusal in made.refusals] == ([{cause: 1}] if cause else [])


def test_pod_may_have_more_slices_than_python_has_frames() -> None:
    """As made while the webhook was away; one pod is not to stop all planning."""
    made = plan(Snapshot((node("n1", *[48] * 25),)), [pod("p", *[1] * 1100)])
    assert where(made) == {"p": "n1"}


def test_slices_of_equal_size_are_told_as_a_number() -> None:
    made = plan(Snapshot((node("n1", 16),)), [pod("p", 10, 10, 5)])
    assert refusal_text(made.refusals[0], LABEL) == (
        "5gb + 2 x 10gb: 0 of 1 nodes: 1 GPUTooSmall (not 25gb on the GPUs of one node)"
    )


def test_five_small_pods_touch_two_of_six_nodes() -> None:
    """The predecessor carves all six (research on nos, section 2)."""
    nodes = tuple(node(f"n{i}", 40) for i in range(6))
    made = plan(Snapshot(nodes), [pod(f"p{i}", 10) for i in range(5)])
    assert len(made.placements) == 5
    assert len(made.layouts) == 2


def test_pinned_small_pods_do_not_starve_a_large_one_elsewhere() -> None:
    nodes = (node("n0", 80), node("n1", 80))
    small = [pod(f"small{i}", 10, constraints=on("n1")) for i in range(8)]
    made = plan(Snapshot(nodes), [*small, pod("large", 40, constraints=on("n0"))])
    assert len(made.placements) == 9


def test_two_halves_fit_one_gpu() -> None:
    made = plan(Snapshot((node("n1", 40),)), [pod("a", 20), pod("b", 20)])
    assert where(made) == {"a": "n1", "b": "n1"}


def test_each_node_is_counted_once_at_its_first_failure() -> None:
    gpu_taint = Taint("dedicated", "x", "NoSchedule")
    nodes = (
        node("a", 80, ready=False),
        node("b", 80, unschedulable=True),
        node("c", 80),
        node("d", 80, taints=(gpu_taint,)),
        node("e", 80, idle=Resources(cpu_milli=100, memory=1 << 38)),
        node("f", 16),
        node("g", 80, used={0: gb({68: 1})}),
        node("h"),
    )
    wants = Resources(cpu_milli=1000)
    selector = Constraints(node_selector=(("zone", "x"),))
    labelled = tuple(
        s
        if s.node.name == "c"
        else NodeState(
            Node(
                s.node.name,
                labels={"zone": "x"},
                taints=s.node.taints,
                unschedulable=s.node.unschedulable,
                ready=s.node.ready,
            ),
            s.gpus,
            s.idle,
        )
        for s in nodes
    )
    made = plan(Snapshot(labelled), [pod("p", 20, requests=wants, constraints=selector)])
    (refusal,) = made.refusals
    assert dict(refusal.causes) == {
        Cause.NOT_READY: 2,
        Cause.UNSCHEDULABLE: 1,
        Cause.NODE_AFFINITY: 1,
        Cause.TAINT: 1,
        Cause.CPU: 1,
        Cause.GPU_TOO_SMALL: 1,
        Cause.GPU_MEMORY: 1,
    }
    assert refusal.nodes == len(nodes)
    assert refusal_text(refusal, LABEL) == (
        "20gb: 0 of 8 nodes: 2 NotReady, 1 GPUMemory (largest hole 12gb on g GPU 0), "
        "1 GPUTooSmall (largest 16gb), 1 CPU (wants 1, most free 0.1), "
        "1 Taint (dedicated=x:NoSchedule), 1 NodeAffinity (wants zone=x), 1 Unschedulable"
    )


def test_without_labelled_nodes_the_label_is_named() -> None:
    (refusal,) = plan(Snapshot(), [pod("p", 20)]).refusals
    assert refusal_text(refusal, LABEL) == f"20gb: 0 of 0 nodes: no node is labelled {LABEL}"


def test_host_port_is_taken_once_a_node() -> None:
    pods = [pod("a", 10, ports=(HostPort(80),)), pod("b", 10, ports=(HostPort(80),))]
    made = plan(Snapshot((node("n1", 80),)), pods)
    assert where(made) == {"a": "n1"}
    assert made.refusals[0].causes == ((Cause.HOST_PORT, 1),)


@pytest.mark.parametrize("free", [{}, {0: {10: 1}}], ids=["nothing", "a free slice"])
def test_nothing_is_made_for_a_group_that_lacks_pods(free: dict[int, dict[int, int]]) -> None:
    nodes = (node("n1", 10, free={index: gb(sizes) for index, sizes in free.items()}),)
    early = pod("early", 10, created="2026-01-01T00:00:00Z", group="g", min_member=2)
    late = pod("late", 10, created="2026-01-01T00:00:01Z")
    assert where(plan(Snapshot(nodes), [early, late])) == {"late": "n1"}
    assert where(plan(Snapshot(nodes), [early])) == {}


def test_gpus_of_a_node_may_come_in_any_order() -> None:
    state = node("n1", 40, 40)
    turned = replace(state, gpus=state.gpus[::-1])
    assert plan(Snapshot((turned,)), [pod("p", 10)]) == plan(Snapshot((state,)), [pod("p", 10)])


@pytest.mark.parametrize("count", [500])
def test_mixed_sizes_on_many_empty_gpus_are_all_placed(count: int) -> None:
    """The predecessor carves no 40gb and no 80gb at all here (research on nos, section 2)."""
    nodes = tuple(node(f"n{i:03}", *[80] * 8) for i in range(100))
    pods = [pod(f"p{i:03}", (5, 10, 20, 40, 80)[i % 5]) for i in range(count)]
    made = plan(Snapshot(nodes), pods)
    assert len(made.placements) == count


@pytest.mark.parametrize(
    "nodes",
    [
        node("n1", 30, 20, free={0: gb({20: 1})}),
        node("n1", 30, 20, free={1: gb({10: 2})}),
        node("n1", 30, 20),
    ],
    ids=["its size stands on the other", "others stand on the right one", "nothing stands"],
)
def test_slices_of_a_pod_find_their_gpus_although_the_first_would_rather_have_another(
    nodes: NodeState,
) -> None:
    made = plan(Snapshot((nodes,)), [pod("p", 20, 15, 15)])
    (placement,) = made.placements
    assert placement.gpus == ("n1-1", "n1-0", "n1-0")
