"""Groups that are spread: no two of their pods on one GPU, wherever they stand or are to go."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION
from mpslice.nodelayout import GpuStatus, LayoutStatus, NodeLayout, SliceState, SliceStatus
from mpslice.slices import SliceSize
from planner.gate.passage import one_group_at_a_time
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Plan
from planner.model.pods import GATE, Group, Pod
from planner.model.preemption import Holder, Preemptible
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.progress.machine import Progress
from planner.progress.note import kept_place, note_text, read_note
from planner.state.members import members_of
from planner.state.parse import parse_pod
from planner.words.explain import refusal_text
from tests.planner.pods import slice_pod
from tests.planner.test_packing import LABEL, gb, node, pod

TEN = SliceSize(10)


def members(count: int, size: int = 10, **fields: object) -> list[Pod]:
    options = {"group": "g", "spread": True, "gates": (GATE,), **fields}
    return [pod(f"m{number}", size, **options) for number in range(count)]


def holding(state: NodeState, *indexes: int) -> NodeState:
    """The node, on which a member holds a slice of 10gb of each of these GPUs."""
    gpus = [
        replace(gpu, used=gb({10: 1}), members=frozenset({"default/g"}))
        if gpu.index in indexes
        else gpu
        for gpu in state.gpus
    ]
    return replace(state, gpus=tuple(gpus))


def gpus(made: Plan) -> Counter[GpuUuid]:
    return Counter(gpu for placement in made.placements for gpu in placement.gpus)


def test_annotation_counts_only_on_a_pod_of_a_group() -> None:
    manifest = slice_pod("a", 10)
    manifest["metadata"]["annotations"] = {SPREAD_ANNOTATION: "gpu"}
    assert not parse_pod(manifest).spread
    manifest["metadata"]["labels"] = {GROUP_LABEL: "g"}
    assert parse_pod(manifest).spread
    manifest["metadata"]["annotations"] = {SPREAD_ANNOTATION: "node"}
    assert not parse_pod(manifest).spread


def test_members_go_to_gpus_of_their_own() -> None:
    together = plan(Snapshot((node("a", 80, 80), node("b", 80))), members(3, spread=False))
    assert max(gpus(together).values()) == 3
    made = plan(Snapshot((node("a", 80, 80), node("b", 80))), members(3))
    assert gpus(made) == {GpuUuid("a-0"): 1, GpuUuid("a-1"): 1, GpuUuid("b-0"): 1}


def test_slices_of_one_pod_may_share_a_gpu() -> None:
    pods = [pod(f"m{n}", 10, 20, group="g", spread=True) for n in range(2)]
    made = plan(Snapshot((node("a", 30, 30),)), pods)
    assert [set(p.gpus) for p in made.placements] == [{GpuUuid("a-0")}, {GpuUuid("a-1")}]


def test_group_with_more_pods_than_gpus_waits_as_a_whole() -> None:
    made = plan(Snapshot((node("a", 80, 80),)), members(3))
    assert not made.placements
    assert {r.own for r in made.refusals} == {Cause.GROUP}
    assert "do not all fit at once, each on a GPU of its own" in made.refusals[0].note


def test_gpu_of_a_running_member_is_passed_over_though_its_free_slice_would_fit() -> None:
    state = holding(node("a", 80, 80, free={0: gb({10: 1})}), 0)
    groups = {"default/g": Group(bound=1)}
    made = plan(Snapshot((state,), groups=groups), members(1))
    assert gpus(made) == {GpuUuid("a-1"): 1}


def test_refusal_counts_the_gpus_of_other_members_and_tells_no_hole_there() -> None:
    state = holding(node("a", 80, 80, 5), 0, 1)
    groups = {"default/g": Group(minimum=1, bound=2)}
    (refusal,) = plan(Snapshot((state,), groups=groups), members(1)).refusals
    text = refusal_text(refusal, LABEL)
    assert refusal.reason == "GPUMemory"
    assert "2 of 3 GPUs there hold a pod of its group" in text
    assert refusal.hole == (5, "a", 2)


def test_place_that_a_pod_has_stays_its_own_though_an_older_one_comes() -> None:
    kept = {"default/m0": ("a", (GpuUuid("a-1"),)), "default/m1": ("a", (GpuUuid("a-0"),))}
    snapshot = Snapshot((node("a", 10, 10),), kept=kept)
    older = pod("x", 10, created="2026-01-01T00:00:00Z", priority=0)
    made = plan(snapshot, [*members(2, created="2026-01-02T00:00:00Z"), older])
    assert {p.pod.key: (p.node, p.gpus) for p in made.placements} == kept


def test_place_beside_another_member_is_not_kept() -> None:
    kept = {"default/m0": ("a", (GpuUuid("a-0"),))}
    state = holding(node("a", 80, 80), 0)
    made = plan(Snapshot((state,), groups={"default/g": Group(bound=1)}, kept=kept), members(1))
    assert gpus(made) == {GpuUuid("a-1"): 1}


def test_nobody_is_evicted_on_the_gpu_of_another_member() -> None:
    low = [pod(f"low{n}", 70) for n in range(2)]
    full = node("a", 80, 80, used={0: gb({10: 1, 70: 1}), 1: gb({70: 1})})
    gpus_ = (replace(full.gpus[0], members=frozenset({"default/g"})), full.gpus[1])
    holders = {
        "a": [
            Holder(low[index], ((gpu.uuid, SliceSize(70)),)) for index, gpu in enumerate(full.gpus)
        ]
    }
    (member,) = members(1, size=20, priority=5)
    snapshot = Snapshot(
        (replace(full, gpus=gpus_),),
        groups={"default/g": Group(minimum=1, bound=1)},
        preemptible=Preemptible(holders=holders, able=frozenset({member.uid})),
    )
    (preemption,) = plan(snapshot, [member]).preemptions
    assert preemption.gpus == (GpuUuid("a-1"),)
    assert [victim.name for victim in preemption.victims] == ["low1"]


def test_reservation_of_a_group_is_on_gpus_of_their_own() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    state = node("a", 80, 80, used={0: gb({80: 1}), 1: gb({80: 1})})
    made = plan(Snapshot((state,), now=now), members(2, created="2026-01-01T10:00:00Z"))
    assert {r.gpus for r in made.reservations} == {(GpuUuid("a-0"),), (GpuUuid("a-1"),)}


def test_note_tells_the_place_until_the_pod_is_refused_there() -> None:
    place = ("a", (GpuUuid("a-1"),))
    text = note_text(Progress(gpus=place[1]), "a")
    assert read_note(text).progress.gpus == place[1]
    (member,) = members(1, progress=text, nominated="a")
    assert kept_place(member) == place
    assert kept_place(replace(member, nominated="")) == place
    assert kept_place(replace(member, avoid=frozenset({"a"}))) is None
    assert kept_place(replace(member, nominated="b")) is None
    assert kept_place(replace(member, spread=False)) is None


def _status(*holders: str | None) -> LayoutStatus:
    """A node whose GPUs each have a used slice, of these pods."""
    return LayoutStatus(
        1,
        tuple(
            GpuStatus(
                GpuUuid(f"a-{index}"),
                index,
                "Test",
                80_000,
                80,
                slices=(
                    SliceStatus(
                        DeviceId(GpuUuid(f"a-{index}"), TEN, 0), 1, SliceState.USED, holder
                    ),
                ),
            )
            for index, holder in enumerate(holders)
        ),
    )


def test_slice_that_nobody_is_known_to_hold_may_be_that_of_a_member_on_its_way() -> None:
    first, second = members(2, node="a")
    known = members_of(_status("default/m0", "default/x"), [first, second])
    assert known == {GpuUuid("a-0"): frozenset({"default/g"})}
    unknown = members_of(_status("default/m0", None), [first, second])
    assert set(unknown) == {GpuUuid("a-0"), GpuUuid("a-1")}


def _places(*pods: Pod) -> list[Placement]:
    return [Placement(each, "a", (GpuUuid(f"a-{n}"),)) for n, each in enumerate(pods)]


def test_others_wait_while_a_group_is_on_its_way_to_slices_of_their_size() -> None:
    x, y = pod("x", 10, gates=(GATE,)), pod("y", 20, gates=(GATE,))
    ready, waiting = one_group_at_a_time(_places(*members(2), x, y), [], [], {})
    assert [p.pod.name for p in ready] == ["m0", "m1", "y"]
    assert [p.pod.name for p in waiting] == ["x"]


def test_group_waits_for_others_that_are_bound_and_do_not_have_their_slices_yet() -> None:
    bound = pod("x", 10, node="a")
    layout = NodeLayout("a", status=_status(None))
    ready, waiting = one_group_at_a_time(_places(*members(2)), [], [bound], {"a": layout})
    assert (len(ready), len(waiting)) == (0, 2)
    layout = NodeLayout("a", status=_status("default/x"))
    ready, _ = one_group_at_a_time(_places(*members(2)), [], [bound], {"a": layout})
    assert len(ready) == 2


def test_where_nobody_is_to_be_spread_nobody_waits() -> None:
    places = _places(pod("x", 10), pod("y", 10, gates=(GATE,)))
    assert one_group_at_a_time(places, [], [], {}) == (places, [])
