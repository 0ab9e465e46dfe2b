"""Clusters as the planner's reflectors hold them, large and in use, to time a whole plan on."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.packing_instances import Ask, asks, data_folder, homogeneous_fleet, pod_of
from mpslice.gpus import MIB, DeviceId, GpuUuid, MemoryUnit
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
from planner.model.constraints import Resources
from planner.model.nodes import Node
from planner.model.pods import Pod

_GB: Final = 80
_READY: Final = Condition(ConditionType.READY, True, "Bench")
_APPLIED: Final = Condition(ConditionType.APPLIED, True, "Bench")


@dataclass(frozen=True, slots=True)
class World:
    """What a plan is made from; `pods` are bound, `pending` are to be placed."""

    nodes: tuple[Node, ...]
    layouts: dict[str, NodeLayout]
    pods: tuple[Pod, ...]
    pending: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Nodes of 8 GPUs of 80 gb, `used` of their memory held, and `pending` pods.

    A pod's share is one of a GPU of `reference` gb. `distinct`: no two pods ask for the same CPU.
    `starved`: every second node has no CPU left.
    """

    gpus: int
    pending: int
    used: float
    reference: int = 80
    distinct: bool = False
    starved: bool = False


def world(recipe: Recipe, seed: int) -> World:
    """The cluster of the recipe; the same for the same seed."""
    dice = random.Random(seed)
    drawn = asks(data_folder())
    nodes: list[Node] = []
    layouts: dict[str, NodeLayout] = {}
    bound: list[Pod] = []
    for number, machine in enumerate(homogeneous_fleet(recipe.gpus)):
        name = f"n{number:05}"
        room = Resources(machine.cpu_milli, machine.memory_mib * MIB)
        nodes.append(Node(name, uid=name, allocatable=room))
        held = list(_held(name, recipe, drawn, len(bound), dice))
        if recipe.starved and number % 2:
            held.append(_hungry(name, room, held))
        bound += held
        layouts[name] = _layout(name, held)
    pending = [
        pod_of(dice.choice(drawn), recipe.reference, len(bound) + number)
        for number in range(recipe.pending)
    ]
    if recipe.distinct:
        pending = [_distinct(pod, number) for number, pod in enumerate(pending)]
    return World(tuple(nodes), layouts, tuple(bound), tuple(pending))


def _held(
    node: str, recipe: Recipe, drawn: Sequence[Ask], first: int, dice: random.Random
) -> Iterator[Pod]:
    """Pods that hold slices on the node, about as much as the recipe says."""
    left = [_GB] * 8
    cpu = 128_000
    number = first
    while sum(left) > (1 - recipe.used) * 8 * _GB:
        pod = pod_of(dice.choice(drawn), 80, number)
        able = [place for place, gb in enumerate(left) if gb >= pod.seats[0]]
        cpu -= pod.requests.cpu_milli
        if not able or cpu < 0:
            return
        left[dice.choice(able)] -= pod.seats[0]
        yield replace(pod, name=f"held-{number}", uid=f"held-{number}", node=node)
        number += 1


def _hungry(node: str, room: Resources, held: Sequence[Pod]) -> Pod:
    """A pod without slices that takes what CPU there is."""
    taken = sum(pod.requests.cpu_milli for pod in held)
    requests = Resources(cpu_milli=room.cpu_milli - taken)
    return Pod("bench", f"hungry-{node}", uid=f"hungry-{node}", node=node, requests=requests)


def _distinct(pod: Pod, number: int) -> Pod:
    """Asks for a little more than any like pod does, so that nothing can be remembered of it."""
    wants = pod.requests
    cpu, memory = wants.cpu_milli + number % 100, wants.memory + number // 100 * MIB
    return replace(pod, requests=replace(wants, cpu_milli=cpu, memory=memory))


def _layout(node: str, held: Sequence[Pod]) -> NodeLayout:
    """The node's layout as its agent reports it: the used slices and nothing free."""
    left = [_GB] * 8
    slices: list[list[SliceStatus]] = [[] for _ in left]
    for pod in sorted(held, key=lambda pod: pod.seats, reverse=True):
        for size in pod.seats:
            place = next(place for place, gb in enumerate(left) if gb >= size)
            left[place] -= size
            device = DeviceId(_uuid(node, place), size, len(slices[place]))
            slices[place].append(SliceStatus(device, size * 950, SliceState.USED, pod.key, "main"))
    gpus = tuple(
        GpuStatus(
            _uuid(node, place),
            place,
            "NVIDIA A100-SXM4-80GB",
            -(-_GB * MemoryUnit.GB.value // MIB),
            _GB,
            slices=tuple(standing),
        )
        for place, standing in enumerate(slices)
    )
    spec = LayoutSpec(tuple(GpuSpec(gpu.uuid, _counts(gpu.slices)) for gpu in gpus))
    status = LayoutStatus(1, gpus, (_READY, _APPLIED))
    return NodeLayout(node, spec, status, generation=1)


def _uuid(node: str, place: int) -> GpuUuid:
    return GpuUuid(f"GPU-{node}-{place}")


def _counts(slices: Sequence[SliceStatus]) -> dict[SliceSize, int]:
    counts: dict[SliceSize, int] = {}
    for each in slices:
        counts[each.id.size] = counts.get(each.id.size, 0) + 1
    return counts
