"""The state that a plan starts from, above all when a node says what cannot be."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import GpuSpec, GpuStatus, LayoutSpec, NodeLayout, SliceState, SliceStatus
from mpslice.slices import SliceSize
from planner.model.constraints import (
    NO_RELATIONS,
    Expression,
    HostPort,
    NodeTerm,
    PodTerm,
    Relations,
    Resources,
)
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.packing import plan
from planner.state.snapshot import build_snapshot
from tests.planner.test_decide import a_layout, a_node, a_pod
from tests.planner.test_packing import gb


def with_slices(*slices: SliceStatus, **fields: object) -> NodeLayout:
    """n1's layout with one GPU that lists these slices; `fields` of the GPU."""
    layout = a_layout("n1")
    assert layout.status is not None
    (gpu,) = layout.status.gpus
    gpus = (replace(gpu, slices=slices, **fields),)  # type: ignore[arg-type]  # test data
    return replace(layout, status=replace(layout.status, gpus=gpus))


def a_slice(size: int, ordinal: int = 0, gpu: str = "n1-gpu", *, used: bool = False) -> SliceStatus:
    state = SliceState.USED if used else SliceState.FREE
    return SliceStatus(DeviceId(GpuUuid(gpu), SliceSize(size), ordinal), 1, state)


def with_spec(*specs: dict[int, int]) -> NodeLayout:
    gpus = tuple(GpuSpec(GpuUuid("n1-gpu"), gb(spec)) for spec in specs)
    return replace(a_layout("n1"), spec=LayoutSpec(gpus))


def with_gpu_twice() -> NodeLayout:
    layout = a_layout("n1")
    assert layout.status is not None
    return replace(layout, status=replace(layout.status, gpus=layout.status.gpus * 2))


def test_room_of_a_pod_that_the_scheduler_has_preempted_for_is_kept() -> None:
    """An ordinary pod waits for its victim to end, nominated to n1 meanwhile."""
    wants = Resources(cpu_milli=20_000)
    nominee = Pod("default", "web", nominated="n1", requests=wants, ports=(HostPort(80),))
    nodes, layouts = [a_node("n1"), a_node("n2")], {n: a_layout(n) for n in ("n1", "n2")}
    snapshot = build_snapshot(nodes, layouts, [nominee])
    pods = [replace(a_pod("p", 10), requests=wants), replace(a_pod("q", 10), ports=(HostPort(80),))]
    assert {p.pod.name: p.node for p in plan(snapshot, pods).placements} == {"p": "n2", "q": "n2"}
    leaving = replace(nominee, terminating=True)
    assert build_snapshot(nodes, layouts, [leaving]) == build_snapshot(nodes, layouts, [])


def test_node_with_a_pod_that_cannot_be_read_is_set_aside() -> None:
    problem = "pod default/odd on it cannot be read (spec.nodeName is 5; write a text)"
    odd = Pod("default", "odd", node="n1", problem=problem)
    snapshot = build_snapshot([a_node("n1")], {"n1": a_layout("n1")}, [odd])
    assert snapshot.set_aside == {"n1": problem}


CONTRADICTIONS: list[tuple[NodeLayout, str]] = [
    (with_slices(a_slice(-5)), "1 slices of -5gb stand on GPU 0"),
    (with_slices(a_slice(0, used=True)), "1 slices of 0gb are used on GPU 0"),
    (with_spec({-5: 1}), "1 slices of -5gb are wanted on GPU 0"),
    (with_spec({10: -1}), "-1 slices of 10gb are wanted on GPU 0"),
    (with_slices(a_slice(10), a_slice(10)), "GPU 0 lists slice n1-gpu::10::0 twice"),
    (
        with_slices(a_slice(10, gpu="n2-gpu")),
        "GPU 0 lists slice n2-gpu::10::0, which is another GPU's",
    ),
    (with_gpu_twice(), "GPU n1-gpu is listed twice"),
    (with_spec({10: 1}, {20: 1}), "the layout wants n1-gpu twice"),
    (
        with_slices(a_slice(50, used=True), a_slice(50, 1, used=True)),
        "100gb are used on GPU 0, which has 80gb",
    ),
    (
        with_slices(a_slice(50, used=True), a_slice(50, 1)),
        "100gb stand on GPU 0, which has 80gb",
    ),
    (with_spec({30: 3}), "90gb are wanted on GPU 0, which has 80gb"),
    (with_slices(capacity_gb=-80), "GPU 0 has -80gb"),
    (with_slices(capacity_gb=200_000), "GPU 0 has 200000gb"),
]


@pytest.mark.parametrize(
    ("layout", "problem"), CONTRADICTIONS, ids=[problem for _, problem in CONTRADICTIONS]
)
def test_node_that_contradicts_itself_is_set_aside_and_the_others_are_planned_on(
    layout: NodeLayout, problem: str
) -> None:
    nodes = [a_node("n1"), a_node("n2")]
    snapshot = build_snapshot(nodes, {"n1": layout, "n2": a_layout("n2")}, ())
    assert snapshot.set_aside == {"n1": problem}
    made = plan(snapshot, [a_pod("p", 10), a_pod("huge", 500)])
    assert [placement.node for placement in made.placements] == ["n2"]
    assert made.layouts.keys() == {"n2"}
    assert dict(made.refusals[0].causes) == {Cause.NOT_READY: 1, Cause.GPU_TOO_SMALL: 1}


def test_unhealthy_gpu_may_say_what_it_likes() -> None:
    layout = with_slices(a_slice(50), a_slice(50, 1), healthy=False)
    snapshot = build_snapshot([a_node()], {"n1": layout}, ())
    assert snapshot.set_aside == {}
    assert snapshot.nodes[0].gpus == ()


def test_spec_beyond_capacity_counts_no_more_once_the_agent_has_refused_it() -> None:
    layout = a_layout(spec={30: 3}, free={10: 1}, applied=False)
    snapshot = build_snapshot([a_node()], {"n1": layout}, ())
    assert snapshot.set_aside == {}
    assert snapshot.nodes[0].gpus[0].free == gb({10: 1})


def test_slice_taken_while_a_spec_was_on_its_way_is_no_contradiction() -> None:
    layout = a_layout(spec={30: 2}, used=[(50, "default/quick")], generation=2, observed=1)
    snapshot = build_snapshot([a_node()], {"n1": layout}, [a_pod("quick", 50, node="n1")])
    assert snapshot.set_aside == {}


@pytest.mark.parametrize(
    ("spec", "taken"),
    [({20: 4}, 50), ({1: 48}, 30)],
    ids=["more memory than there is", "more slices than MPS serves"],
)
def test_what_can_no_more_be_made_beside_a_slice_taken_meanwhile_is_not_wanted_again(
    spec: dict[int, int], taken: int
) -> None:
    layout = a_layout(spec=spec, used=[(taken, "default/quick")], generation=2, observed=1)
    assert layout.status is not None
    second = replace(layout.status.gpus[0], uuid=GpuUuid("n1-second"), index=1, slices=())
    status = replace(layout.status, gpus=(*layout.status.gpus, second))
    bound = [a_pod("quick", taken, node="n1")]
    snapshot = build_snapshot([a_node()], {"n1": replace(layout, status=status)}, bound)
    made = plan(snapshot, [a_pod("large", 60)])  # it has the node written
    assert made.layouts["n1"] == {
        GpuUuid("n1-gpu"): gb({taken: 1}),
        GpuUuid("n1-second"): gb({60: 1}),
    }


def test_node_that_is_listed_twice_counts_once_and_is_set_aside() -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("n1")]
    snapshot = build_snapshot(nodes, {name: a_layout(name) for name in ("n1", "n2")}, ())
    assert snapshot.set_aside == {"n1": "the node is listed twice"}
    assert sorted(state.node.name for state in snapshot.nodes) == ["n1", "n2"]


def test_layouts_and_pods_of_unknown_nodes_do_not_count() -> None:
    layouts = {name: a_layout(name) for name in ("n1", "gone")}
    snapshot = build_snapshot([a_node("n1")], layouts, [a_pod("p", 50, node="gone")])
    assert [state.node.name for state in snapshot.nodes] == ["n1"]
    assert snapshot.set_aside == {}
    assert snapshot.nodes[0].gpus[0].used == {}


def test_node_of_a_pod_with_an_impossible_claim_is_set_aside() -> None:
    snapshot = build_snapshot([a_node()], {"n1": a_layout()}, [a_pod("p", -5, node="n1")])
    assert snapshot.set_aside == {"n1": "pod default/p asks for a slice of -5gb"}


def test_bound_pod_takes_the_slice_that_the_kubelet_takes_or_the_memory_for_it() -> None:
    layout = a_layout(free={10: 1})
    pods = [a_pod("first", 10, node="n1"), a_pod("second", 10, node="n1")]
    (state,) = build_snapshot([a_node()], {"n1": layout}, pods).nodes
    assert (state.gpus[0].used, state.gpus[0].free) == (gb({10: 2}), {})


def test_bound_pod_keeps_the_slice_that_an_unacknowledged_spec_withdraws() -> None:
    layout = a_layout(spec={40: 2}, free={30: 1}, generation=2, observed=1)
    quick = a_pod("quick", 30, node="n1")
    (state,) = build_snapshot([a_node()], {"n1": layout}, [quick]).nodes
    assert (state.gpus[0].used, state.gpus[0].free) == (gb({30: 1}), {})


def changing(shown: list[dict[int, int]], wanted: list[dict[int, int]], gb_each: int) -> NodeLayout:
    """n1 with a GPU for each of `shown`, whose slices are all free and are to become `wanted`."""
    gpus, specs = [], []
    for index, (here, soon) in enumerate(zip(shown, wanted, strict=True)):
        uuid = GpuUuid(f"n1-{index}")
        ids = [(size, ordinal) for size, count in here.items() for ordinal in range(count)]
        slices = tuple(a_slice(size, ordinal, uuid) for size, ordinal in ids)
        gpus.append(GpuStatus(uuid, index, "Test", gb_each, gb_each, slices=slices))
        specs.append(GpuSpec(uuid, gb(soon)))
    layout = replace(a_layout("n1", generation=2), spec=LayoutSpec(tuple(specs)))
    assert layout.status is not None
    return replace(layout, status=replace(layout.status, gpus=tuple(gpus)))


def test_pods_that_are_bound_while_the_layout_changes_hold_what_stands() -> None:
    """The 40gb that is to come on the other GPU is nobody's yet."""
    layout = changing([{40: 1}, {20: 1, 60: 1}], [{10: 3}, {40: 1, 20: 2}], 80)
    pods = [a_pod("a", 40, node="n1"), a_pod("b", 60, node="n1")]
    (state,) = build_snapshot([a_node()], {"n1": layout}, pods).nodes
    assert [gpu.used for gpu in state.gpus] == [gb({40: 1}), gb({60: 1})]
    assert [gpu.free for gpu in state.gpus] == [gb({10: 3}), gb({20: 1})]


some_slices = st.lists(st.sampled_from([5, 10, 20, 40, 60]), max_size=4)


@given(
    gpus=st.lists(st.tuples(some_slices, some_slices), min_size=1, max_size=3),
    dice=st.randoms(use_true_random=False),
)
def test_no_gpu_counts_more_than_it_has_whoever_is_bound_while_the_layout_changes(
    gpus: list[tuple[list[int], list[int]]], dice: Random
) -> None:
    def within(sizes: list[int]) -> Counter[int]:
        while sum(sizes) > 80:
            sizes = sizes[1:]
        return Counter(sizes)

    shown, wanted = ([dict(within(pair[part])) for pair in gpus] for part in (0, 1))
    standing = [size for here in shown for size in Counter(here).elements()]
    taken = dice.sample(standing, dice.randint(0, len(standing)))
    pods = [a_pod(f"p{number}", size, node="n1") for number, size in enumerate(taken)]
    (state,) = build_snapshot([a_node()], {"n1": changing(shown, wanted, 80)}, pods).nodes
    for gpu in state.gpus:
        total = sum(size * count for part in (gpu.used, gpu.free) for size, count in part.items())
        assert total <= gpu.capacity
    held = sum((Counter(gpu.used) for gpu in state.gpus), Counter[SliceSize]())
    assert held == Counter(taken)


def test_finished_pods_hold_nothing() -> None:
    pod = replace(a_pod("done", 10, node="n1"), finished=True)
    (state,) = build_snapshot([a_node()], {"n1": a_layout(free={10: 1})}, [pod]).nodes
    assert state.gpus[0].free == gb({10: 1})


gpu_names = st.sampled_from(["n1-gpu", "n1-other"]).map(GpuUuid)
numbers = st.integers(-2, 90)
slices_of = st.builds(
    SliceStatus,
    st.builds(DeviceId, gpu_names, numbers.map(SliceSize), st.integers(0, 2)),
    st.just(1),
    st.sampled_from(SliceState),
    st.sampled_from([None, "default/p", "default/q"]),
)
gpus_of = st.builds(
    GpuStatus,
    gpu_names,
    st.integers(0, 1),
    st.just("Test"),
    numbers,
    numbers,
    st.booleans(),
    st.none(),
    st.lists(slices_of, max_size=4).map(tuple),
)
specs_of = st.builds(
    GpuSpec, gpu_names, st.dictionaries(numbers.map(SliceSize), st.integers(-1, 3), max_size=2)
)


@settings(max_examples=150, deadline=None)
@given(
    gpus=st.lists(gpus_of, max_size=3),
    specs=st.lists(specs_of, max_size=2),
    sizes=st.lists(numbers, max_size=3),
)
def test_no_input_stops_a_plan_or_lets_it_overfill_a_gpu(
    gpus: list[GpuStatus], specs: list[GpuSpec], sizes: list[int]
) -> None:
    good = a_layout("n1")
    assert good.status is not None
    status = replace(good.status, gpus=tuple(gpus))
    layout = replace(good, status=status, spec=LayoutSpec(tuple(specs)))
    bound = [a_pod("pq"[i % 2], size, node="n1") for i, size in enumerate(sizes)]
    snapshot = build_snapshot([a_node("n1")], {"n1": layout}, bound)
    made = plan(snapshot, [a_pod("new", 10)])
    if snapshot.set_aside:
        assert made.layouts == {}
    capacity = {gpu.uuid: gpu.capacity for state in snapshot.nodes for gpu in state.gpus}
    for placed in made.layouts.values():
        for uuid, slices in placed.items():
            assert sum(size * count for size, count in slices.items()) <= capacity[uuid]


def test_neighbours_are_all_bound_pods_and_all_nodes() -> None:
    apart = Relations(anti_affinity=(PodTerm("zone", ()),))
    pods = [
        Pod("default", "plain", node="n1"),
        Pod("default", "loner", node="other", relations=apart),
        Pod("default", "done", node="n1", finished=True, relations=apart),
        Pod("default", "pending", relations=apart),
    ]
    nodes = (a_node("n1"), a_node("other", labels={}))
    spaces = {"default": {"x": "y"}}
    around = build_snapshot(nodes[:1], {}, pods, all_nodes=nodes, namespaces=spaces).neighbours
    assert {name: [p.name for p in there] for name, there in around.pods.items()} == {
        "n1": ["plain"],
        "other": ["loner"],
    }
    assert [pod.name for pod in around.repelling] == ["loner"]
    assert around.nodes == nodes
    assert around.namespaces == spaces
    assert pods[0].relations is NO_RELATIONS


def test_members_that_need_no_slice_any_more_count_towards_their_group() -> None:
    """A worker that succeeded and a launcher without slices; not a worker that failed."""
    done = Pod("default", "w0", group="g", finished=True, succeeded=True)
    failed = Pod("default", "w1", group="g", finished=True)
    launcher = Pod("default", "launcher", group="g")
    retried = replace(a_pod("w1b", 10), group="g", min_member=3)
    snapshot = build_snapshot([a_node()], {"n1": a_layout()}, [done, failed, launcher, retried])
    assert snapshot.groups["default/g"].bound == 2
    assert [p.pod.name for p in plan(snapshot, [retried]).placements] == ["w1b"]


def test_node_that_a_volume_cannot_reach_is_ruled_out() -> None:
    here = NodeTerm((Expression("zone", "In", ("b",)),))
    nodes = [
        a_node(name, labels={"part": "mps", "zone": zone})
        for name, zone in (("n1", "a"), ("n2", "b"))
    ]
    layouts = {name: a_layout(name) for name in ("n1", "n2")}
    pod = replace(a_pod("p", 10), volume_topology=((here,),))
    snapshot = build_snapshot(nodes, layouts, [])
    assert [p.node for p in plan(snapshot, [pod]).placements] == ["n2"]
    (refusal,) = plan(replace(snapshot, nodes=snapshot.nodes[:1]), [pod]).refusals
    assert refusal.causes == ((Cause.VOLUME, 1),)


def test_node_where_the_scheduler_refused_a_pod_is_told_as_avoided() -> None:
    pod = replace(a_pod("p", 10), avoid=frozenset({"n1"}))
    (refusal,) = plan(build_snapshot([a_node()], {"n1": a_layout()}, []), [pod]).refusals
    assert refusal.causes == ((Cause.AVOIDED, 1),)
