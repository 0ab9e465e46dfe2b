"""Clusters of any size for the page, as a replica that leads sees them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from planner.decide import decide
from planner.model.constraints import Resources
from planner.model.nodes import Node
from planner.model.pods import GATE, Pod, SliceClaim
from planner.ui.seen import Seen
from planner.view import View

KEY, VALUE = "nos.nebuly.com/gpu-partitioning", "mps"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY = Condition(ConditionType.READY, True, "Serving")
TEAMS = ("team-a", "team-b", "ml-platform", "research")
SIZES = (10, 20, 40, 10, 15, 5, 30, 10)


def gpu(node: str, index: int, *, held: str = "", capacity: int = 85) -> GpuStatus:
    """A GPU with up to four slices; every fourth one of it is free."""
    uuid = GpuUuid(f"GPU-{node}-{index}")
    slices: list[SliceStatus] = []
    room = capacity
    for count in range((index * 3) % 5):
        size = SliceSize(SIZES[(index + count) % len(SIZES)])
        if size > room:
            break
        room -= size
        device = DeviceId(uuid, size, count)
        if count == 3:
            slices.append(SliceStatus(device, size * 960, SliceState.FREE))
        else:
            team = TEAMS[(index + count) % len(TEAMS)]
            pod = held or f"{team}/train-{node}-{index}-{count}"
            slices.append(SliceStatus(device, size * 960, SliceState.USED, pod, "main"))
    return GpuStatus(uuid, index, "NVIDIA A100-SXM4-80GB", 81920, capacity, slices=tuple(slices))


def layout(name: str, *, gpus: int = 8, held: str = "", generation: int = 1) -> NodeLayout:
    """The NodeLayout of a node whose agent is well."""
    return of_gpus(name, *(gpu(name, index, held=held) for index in range(gpus)))


def of_gpus(name: str, *gpus: GpuStatus) -> NodeLayout:
    """A NodeLayout that shows just what it asks for."""
    spec = []
    for each in gpus:
        counts: dict[SliceSize, int] = {}
        for entry in each.slices:
            counts[entry.id.size] = counts.get(entry.id.size, 0) + 1
        spec.append(GpuSpec(each.uuid, counts))
    return NodeLayout(name, LayoutSpec(tuple(spec)), LayoutStatus(1, gpus, (READY,)), 1, uid=name)


def node(name: str) -> Node:
    """A large node that is handed over."""
    room = Resources(cpu_milli=256_000, memory=1 << 41)
    return Node(name, name, {KEY: VALUE}, allocatable=room, max_pods=250)


def waiting(
    name: str, size: int, *, namespace: str = "team-a", ago: int = 60, **more: object
) -> Pod:
    """A pending slice pod, created so many seconds before NOW."""
    created = (NOW - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    claims = (SliceClaim("main", SliceSize(size), 0),)
    pod = Pod(namespace, name, f"{namespace}-{name}", created=created, gates=(GATE,), claims=claims)
    return replace(pod, **more)  # type: ignore[arg-type]


def seen(layouts: list[NodeLayout], pods: list[Pod], **more: object) -> Seen:
    """What the leader sees, with the decision that the planner makes of it."""
    by_name = {each.name: each for each in layouts}
    view = View(
        nodes=tuple(node(name) for name in by_name),
        layouts=by_name,
        pods=tuple(pods),
        label=(KEY, VALUE),
        now=NOW,
    )
    found = Seen(by_name, {}, decide(view), (), f"{KEY}={VALUE}", "mpslice-planner-7d9f-x2x")
    return replace(found, **more)  # type: ignore[arg-type]


def crowd(nodes: int) -> Seen:
    """Nodes of 8 GPUs, some of them in trouble, and pods that wait for several causes."""
    layouts = [layout(f"gpu-node-{number}") for number in range(1, nodes + 1)]
    away = Condition(ConditionType.READY, False, "KubeletUnavailable", "no answer for 12 s")
    assert layouts[1].status is not None
    layouts[1] = replace(layouts[1], status=replace(layouts[1].status, conditions=(away,)))
    status = layouts[2].status
    assert status is not None
    sick = replace(status.gpus[3], healthy=False, reason="XidError")
    gpus = (*status.gpus[:3], sick, *status.gpus[4:])
    layouts[2] = replace(layouts[2], status=replace(status, gpus=gpus))
    making = GpuSpec(layouts[0].spec.gpus[0].uuid, {SliceSize(20): 1, SliceSize(10): 2})
    spec = LayoutSpec((making, *layouts[0].spec.gpus[1:]))
    layouts[0] = replace(layouts[0], spec=spec, generation=2)
    pods = [
        waiting(f"large-{number}", 90, namespace=TEAMS[number % 4], ago=40 + 400 * number)
        for number in range(30)
    ]
    pods += [waiting("wide", 10, ago=7, requests=Resources(cpu_milli=900_000))]
    pods += [waiting(f"member-{i}", 20, group="mpi", min_member=4, ago=300) for i in range(2)]
    pods += [waiting("other-gates", 10, gates=(GATE, "kueue.x-k8s.io/admission"))]
    pods += [waiting("fits", 10, ago=2, namespace="research")]
    return seen(layouts, pods)
