"""Instances so small that the optimum is known: up to 28 GPUs, warm, with selectors and priorities.

They are generated whatever data there is, so that their optima can be kept (packing_optima.json).
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from benchmarks.packing_instances import Ask, Machine, asks, node_state, openb_fleet, pod_of
from mpslice.gpus import MIB
from mpslice.slices import SliceSize
from planner.model.constraints import Constraints
from planner.model.nodes import NodeState
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot

COUNT: Final = 200
_MOST_GPUS: Final = 28
_MOST_PODS: Final = 60
_PRIORITIES: Final = ((0, 60), (100, 25), (1000, 15))  # and how often of a hundred
_ZONES: Final = ("a", "b")


@dataclass(frozen=True, slots=True)
class SmallInstance:
    """A warm cluster with pods for about all that is left of it; `name` is its number and kind."""

    name: str
    snapshot: Snapshot
    pods: tuple[Pod, ...]


def small_instances(seeds: Sequence[int]) -> Iterator[SmallInstance]:
    """200 instances shared out among the seeds; like nodes and unlike ones take turns."""
    for number in range(COUNT):
        seed = seeds[number % len(seeds)]
        dice = random.Random(f"{seed}/{number}")
        yield _instance(f"{seed}/{number}", "hom80" if number % 2 else "openb", dice)


def _instance(name: str, kind: str, dice: random.Random) -> SmallInstance:
    reference = 80 if kind == "hom80" else 16
    most = dice.randint(4, _MOST_GPUS)
    states = [
        _warm(node_state(number, machine), reference, dice)
        for number, machine in enumerate(_fleet(kind, most, dice))
    ]
    room = sum(
        gpu.capacity - sum(size * n for size, n in gpu.used.items())
        for state in states
        for gpu in state.gpus
    )
    pods = _pods(room * dice.uniform(0.9, 1.5), reference, dice)
    return SmallInstance(f"{kind} {name}", Snapshot(tuple(states)), tuple(pods))


def _fleet(kind: str, most: int, dice: random.Random) -> Iterator[Machine]:
    known = openb_fleet(None)
    left = most
    while left > 0:
        if kind == "hom80":
            gpus = dice.choice((1, 2, 4, 8))
            machine = Machine(16_000 * gpus, 128 * 1024 * gpus, gpus, 80)
        else:
            machine = dice.choice(known)
        gpus = min(machine.gpus, left)
        left -= gpus
        yield replace(machine, gpus=gpus)


def _warm(state: NodeState, reference: int, dice: random.Random) -> NodeState:
    """The node with slices in use on it and the CPU and memory of their pods gone."""
    cpu, memory = state.idle.cpu_milli, state.idle.memory
    fill = dice.uniform(0.0, 0.8)
    gpus = []
    for gpu in state.gpus:
        used: Counter[SliceSize] = Counter()
        for _ in range(8):
            pod = pod_of(dice.choice(asks(None)), reference, 0)
            size = pod.seats[0]
            held = sum(s * n for s, n in used.items()) + size
            wants = pod.requests
            if held <= fill * gpu.capacity and wants.cpu_milli <= cpu and wants.memory <= memory:
                used[size] += 1
                cpu -= wants.cpu_milli
                memory -= wants.memory
        gpus.append(replace(gpu, used=dict(used)))
    return replace(
        state,
        node=replace(state.node, labels={"zone": dice.choice(_ZONES)}),
        gpus=tuple(gpus),
        idle=replace(state.idle, cpu_milli=cpu, memory=memory),
    )


def _pods(total_gb: float, reference: int, dice: random.Random) -> Iterator[Pod]:
    asked = 0
    values, weights = zip(*_PRIORITIES, strict=True)
    for number in range(_MOST_PODS):
        if asked >= total_gb:
            return
        ask: Ask = dice.choice(asks(None))
        asked += ask.gb(reference)
        zone = (("zone", dice.choice(_ZONES)),) if dice.random() < 0.2 else ()
        priority = dice.choices(values, weights)[0]
        pod = pod_of(ask, reference, number, priority)
        yield replace(pod, constraints=Constraints(node_selector=zone))


class Kind(NamedTuple):
    """What sets pods apart for the optimum; memory in MiB, as all of it is asked for here."""

    priority: int
    gb: int
    cpu_milli: int
    memory_mib: int
    selector: tuple[tuple[str, str], ...]


def kind_of(pod: Pod) -> Kind:
    """Pods of one kind are interchangeable."""
    wants = pod.requests
    selector = pod.constraints.node_selector
    return Kind(pod.priority, pod.seats[0], wants.cpu_milli, wants.memory // MIB, selector)


def gb_by_priority(instance: SmallInstance, placed: Sequence[Pod]) -> tuple[int, ...]:
    """The gb placed of each priority class that has pods, from the highest."""
    classes = sorted({pod.priority for pod in instance.pods}, reverse=True)
    return tuple(sum(pod.seats[0] for pod in placed if pod.priority == c) for c in classes)


def fingerprint(instance: SmallInstance) -> str:
    """Changes with whatever the optimum depends on."""
    nodes = [
        (
            sorted(state.node.labels.items()),
            (state.idle.cpu_milli, state.idle.memory),
            [(gpu.capacity, sorted(gpu.used.items())) for gpu in state.gpus],
        )
        for state in instance.snapshot.nodes
    ]
    pods = sorted(kind_of(pod) for pod in instance.pods)
    text = repr((nodes, [tuple(kind) for kind in pods]))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
