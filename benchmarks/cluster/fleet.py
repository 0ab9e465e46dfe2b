"""A large cluster that has run for long, as API objects: nodes, their layouts, and pods.

It is what the planner finds when it starts: most of the pods run, some wait that nothing has room
for, and each node has a free slice or two. Nothing is to be carved.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.cluster.crowd import slice_pod
from benchmarks.cluster.load import Life
from hack.cluster.programs import NODE_LABEL
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import Json
from mpslice.nodelayout import (
    API_VERSION,
    KIND,
    Condition,
    ConditionType,
    GpuSpec,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    SliceState,
    SliceStatus,
    spec_to_json,
    status_to_json,
)
from mpslice.slices import SliceSize, resource_name
from planner.model.pods import GATE
from planner.writes.actions import MANAGED_LABEL

GPUS: Final = 8
GPU_GB: Final = 80
_MEMORY_MIB: Final = GPU_GB * 10**9 // 2**20 + 1
_FREE: Final = SliceSize(10)
"""Each node has one free slice of this size: where pods come and go, some always stand."""


@dataclass(slots=True)
class FleetNode:
    """One node: its slices by GPU, each with the pod that holds it, or "" for nobody."""

    name: str
    gpus: list[dict[DeviceId, str]] = field(default_factory=lambda: [{} for _ in range(GPUS)])
    generation: int = 1

    def uuid(self, index: int) -> GpuUuid:
        return GpuUuid(f"GPU-{self.name}-{index}")

    def left_gb(self, index: int) -> int:
        return GPU_GB - sum(device.size for device in self.gpus[index])

    def add(self, index: int, size: SliceSize, pod: str = "") -> None:
        """Makes the slice stand."""
        slices = self.gpus[index]
        ordinal = next(n for n in range(99) if DeviceId(self.uuid(index), size, n) not in slices)
        slices[DeviceId(self.uuid(index), size, ordinal)] = pod

    def take(self, size: SliceSize, pod: str) -> bool:
        """Gives the pod a free slice, as the kubelet does; False without one."""
        for slices in self.gpus:
            for device, holder in slices.items():
                if device.size == size and not holder:
                    slices[device] = pod
                    return True
        return False

    def give_back(self, pod: str) -> None:
        """The pod has ended."""
        for slices in self.gpus:
            slices.update({device: "" for device, holder in slices.items() if holder == pod})

    def carry_out(self, spec: Json, generation: int) -> None:
        """Has the slices that a spec wants; used ones stay."""
        self.generation = generation
        for entry in spec["gpus"]:
            index = int(entry["uuid"].rpartition("-")[2])
            slices, wanted = self.gpus[index], entry["slices"]
            sizes = {device.size for device in slices} | {
                SliceSize(int(label.removesuffix("gb"))) for label in wanted
            }
            for size in sizes:
                count = wanted.get(f"{size}gb", 0)
                standing = [device for device in slices if device.size == size]
                free = [device for device in standing if not slices[device]]
                for device in free[: max(0, len(standing) - count)]:
                    del slices[device]
                for _ in range(count - len(standing)):
                    self.add(index, size)

    def spec(self) -> Json:
        gpus = []
        for index, slices in enumerate(self.gpus):
            sizes = [device.size for device in slices]
            gpus.append(
                GpuSpec(self.uuid(index), {s: sizes.count(s) for s in dict.fromkeys(sizes)})
            )
        return spec_to_json(LayoutSpec(tuple(gpus)))

    def status(self) -> Json:
        gpus = tuple(
            GpuStatus(
                self.uuid(index),
                index,
                "NVIDIA A100-SXM4-80GB",
                _MEMORY_MIB,
                GPU_GB,
                slices=tuple(
                    SliceStatus(device, device.size * 950, SliceState.USED, pod, "main")
                    if pod
                    else SliceStatus(device, device.size * 950, SliceState.FREE)
                    for device, pod in sorted(slices.items(), key=lambda item: str(item[0]))
                ),
            )
            for index, slices in enumerate(self.gpus)
        )
        conditions = tuple(
            Condition(kind, True, "Fleet", last_transition_time="2026-01-01T00:00:00Z")
            for kind in (ConditionType.READY, ConditionType.APPLIED)
        )
        return status_to_json(LayoutStatus(self.generation, gpus, conditions))

    def resources(self) -> dict[str, str]:
        """What the node offers: its slices by size beside the rest."""
        sizes = [device.size for slices in self.gpus for device in slices]
        counted = {resource_name(size): str(sizes.count(size)) for size in set(sizes)}
        return {"cpu": "128", "memory": "1Ti", "pods": "250", **counted}

    def node_status(self) -> Json:
        resources = self.resources()
        conditions = [{"type": "Ready", "status": "True", "reason": "Benchmark"}]
        return {"capacity": resources, "allocatable": resources, "conditions": conditions}

    def objects(self) -> tuple[Json, Json]:
        """The Node, and the NodeLayout without an owner."""
        labels = {"kubernetes.io/hostname": self.name, **NODE_LABEL, MANAGED_LABEL: "true"}
        node: Json = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "status": self.node_status(),
        }
        layout: Json = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": self.spec(),
        }
        return node, layout


@dataclass(frozen=True, slots=True)
class Fleet:
    """`running` are pods by name with their node and life, `waiting` those without room."""

    namespace: str
    nodes: dict[str, FleetNode]
    running: dict[str, tuple[str, Life]]
    waiting: dict[str, Life]

    def pods(self) -> list[Json]:
        """All pods; those that run carry no gate any more."""
        made = []
        for name, (node, life) in self.running.items():
            made.append(pod_of(name, life, nodeName=node))
        return [*made, *(pod_of(name, life, gated=True) for name, life in self.waiting.items())]


def pod_of(name: str, life: Life, *, gated: bool = False, **spec: Any) -> Json:
    """A pod as admission would leave it, whoever creates it."""
    pod = slice_pod(name, life, forever=True)
    pod["spec"].update(hostIPC=True, **spec)
    pod["spec"]["containers"][0]["securityContext"] = {"runAsUser": 1000}
    if gated:
        pod["spec"]["schedulingGates"] = [{"name": GATE}]
    return pod


def fleet(
    namespace: str, nodes: int, pods: int, waiting: int, drawn: Sequence[Life], seed: int = 1
) -> Fleet:
    """So many nodes with so many pods of the lives drawn, which ask for at most half a GPU, so that
    all have room. `waiting` of them are larger than any GPU."""
    dice = random.Random(seed)
    small = [life for life in drawn if life.gb <= GPU_GB // 2]
    made = {f"n{number:04}": FleetNode(f"n{number:04}") for number in range(nodes)}
    for node in made.values():
        node.add(0, _FREE)
    places = [(node, index) for node in made.values() for index in range(GPUS)]
    dice.shuffle(places)
    running: dict[str, tuple[str, Life]] = {}
    turn = 0
    while len(running) < pods - waiting:
        life = dice.choice(small)
        for _ in range(len(places)):
            node, index = places[turn % len(places)]
            turn += 1
            if node.left_gb(index) >= life.gb:
                break
        else:
            raise ValueError(f"{nodes} nodes have no room for {pods} pods")
        name = f"run-{len(running)}"
        node.add(index, SliceSize(life.gb), f"{namespace}/{name}")
        running[name] = (node.name, life)
    huge = Life(GPU_GB + 1, 100, 100, 0.0)
    return Fleet(namespace, made, running, {f"wait-{n}": huge for n in range(waiting)})
