"""Node agents without nodes: what the planner sees of a cluster whose agents are quick and honest.

They carve and withdraw as a NodeLayout says, show it in the node's status, and give a bound pod
its slice, all through the real API server.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any

from mpslice.errors import InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Kube, PatchType
from mpslice.kube.errors import Conflict, NotFound
from mpslice.kube.reflector import Change, Reflector
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
    parse_node_layout,
    status_to_json,
)
from mpslice.slices import SliceSize, resource_name
from planner.model.pods import Pod
from planner.state.parse import parse_pod

LABEL = {"nos.nebuly.com/gpu-partitioning": "mps"}
_NOW = "2026-01-01T00:00:00Z"


def gpu_of(node: str, index: int) -> GpuUuid:
    return GpuUuid(f"GPU-{node}-{index}")


def node_manifest(name: str, *, labels: dict[str, str] | None = None, cpu: str = "32") -> Any:
    """A Node that was never a machine: ready, with room for ordinary pods."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **(LABEL if labels is None else labels)},
        },
        "spec": {"taints": []},
    }


def node_status(cpu: str = "32") -> Any:
    resources = {"cpu": cpu, "memory": "256Gi", "pods": "110"}
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Test",
        "lastHeartbeatTime": _NOW,
        "lastTransitionTime": _NOW,
    }
    return {"status": {"capacity": resources, "allocatable": resources, "conditions": [condition]}}


async def add_node(
    kube: Kube, name: str, *, labels: dict[str, str] | None = None, cpu: str = "32"
) -> None:
    """Registers the node and keeps the control plane from tainting it."""
    await kube.create(NODES, node_manifest(name, labels=labels))
    await kube.patch(NODES, name, node_status(cpu), type=PatchType.MERGE, subresource="status")
    await kube.patch(NODES, name, {"spec": {"taints": None}}, type=PatchType.MERGE)


class SimulatedAgents:
    """The agents of all nodes; `gpus` gives the capacities (gb) of a node's GPUs.

    Which of a GPU's equal slices a pod gets is by `dice`, as the kubelet's choice is by chance;
    without dice it is by the pods' names.
    """

    def __init__(
        self, kube: Kube, gpus: dict[str, list[int]], *, dice: Random | None = None
    ) -> None:
        self.gpus = gpus
        self._dice = dice
        self.writes: Counter[str] = Counter()  # layouts applied, by node
        self.slow: set[str] = set()  # nodes on which nothing is applied for now
        self._kube = kube
        self._wake = asyncio.Event()
        self._layouts: Reflector[NodeLayout] = Reflector(
            kube, NODE_LAYOUTS, _readable, self._changed
        )
        self._pods: Reflector[Pod] = Reflector(kube, PODS, parse_pod, self._changed)
        self._shown: dict[str, LayoutStatus] = {}
        self._uids: dict[str, str] = {}

    def _changed(self, _change: Change[Any]) -> None:
        self._wake.set()

    def hurry(self) -> None:
        """No node is slow any more."""
        self.slow.clear()
        self._wake.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._layouts.run())
            tasks.create_task(self._pods.run())
            tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            layouts = [
                layout
                for layout in self._layouts.objects.values()
                if layout.name in self.gpus and layout.name not in self.slow
            ]
            await asyncio.gather(*(self._apply(layout) for layout in layouts))

    async def _apply(self, layout: NodeLayout) -> None:
        if self._uids.get(layout.name) != layout.uid:
            self._uids[layout.name] = layout.uid
            self._shown.pop(layout.name, None)
        status = self._status(layout)
        if status == self._shown.get(layout.name):
            return
        totals = Counter(s.id.size for gpu in status.gpus for s in gpu.slices)
        stale = Counter(
            s.id.size
            for gpu in self._shown.get(layout.name, LayoutStatus()).gpus
            for s in gpu.slices
        )
        quantities = {resource_name(size): str(totals[size]) for size in {*totals, *stale}}
        node = {"status": {"capacity": quantities, "allocatable": quantities}}
        body = {"status": status_to_json(status)}
        try:
            await self._kube.patch(
                NODES, layout.name, node, type=PatchType.MERGE, subresource="status"
            )
            await self._kube.patch(
                NODE_LAYOUTS, layout.name, body, type=PatchType.MERGE, subresource="status"
            )
        except (Conflict, NotFound):
            return
        self._shown[layout.name] = status
        self.writes[layout.name] += 1

    def _status(self, layout: NodeLayout) -> LayoutStatus:
        holders = self._holders(layout.name)
        old = self._shown.get(layout.name, LayoutStatus())
        wanted = {gpu.uuid: gpu.slices for gpu in layout.spec.gpus}
        gpus = []
        for index, capacity in enumerate(self.gpus[layout.name]):
            uuid = gpu_of(layout.name, index)
            before = next((gpu.slices for gpu in old.gpus if gpu.uuid == uuid), ())
            slices = _carved(uuid, before, Counter(dict(wanted.get(uuid, {}))), holders, self._dice)
            gpus.append(GpuStatus(uuid, index, "Test", capacity * 1000, capacity, slices=slices))
        return LayoutStatus(layout.generation, tuple(gpus), _conditions(layout, gpus))

    def _holders(self, node: str) -> dict[SliceSize, list[tuple[str, str]]]:
        """Pods bound to the node, by the size of what they hold, oldest name first."""
        holders: dict[SliceSize, list[tuple[str, str]]] = {}
        for pod in sorted(self._pods.objects.values(), key=lambda pod: pod.key):
            if pod.node == node and not pod.finished:
                for claim in pod.claims:
                    holders.setdefault(claim.size, []).append((pod.key, claim.container))
        return holders


def _readable(obj: Json) -> NodeLayout | None:
    try:
        return parse_node_layout(obj)
    except InvalidNodeLayout:
        return None


def _conditions(layout: NodeLayout, gpus: Iterable[GpuStatus]) -> tuple[Condition, ...]:
    ready = Condition(ConditionType.READY, True, "Test", "", _NOW)
    applied = Condition(ConditionType.APPLIED, True, "Test", "", _NOW)
    empty = not any(gpu.slices for gpu in gpus)
    released = Condition(ConditionType.RELEASED, layout.spec.release and empty, "Test", "", _NOW)
    return ready, applied, released


def _carved(
    uuid: GpuUuid,
    before: Iterable[SliceStatus],
    wanted: Counter[SliceSize],
    holders: dict[SliceSize, list[tuple[str, str]]],
    dice: Random | None,
) -> tuple[SliceStatus, ...]:
    """The slices of one GPU: who held one keeps it, free ones go or come as wanted."""
    slices: list[SliceStatus] = []
    for entry in before:
        holder = (entry.pod or "", entry.container or "")
        if holder in holders.get(entry.id.size, ()):
            holders[entry.id.size].remove(holder)
            slices.append(entry)
    used = Counter(entry.id.size for entry in slices)
    taken = {entry.id.ordinal for entry in slices}
    for size, count in sorted((wanted - used).items()):
        waiting = holders.get(size) or []
        given = [waiting.pop(0) if waiting else (None, None) for _ in range(count)]
        if dice is not None:
            dice.shuffle(given)
        for pod, container in given:
            ordinal = next(k for k in range(1000) if k not in taken)
            taken.add(ordinal)
            state = SliceState.USED if pod else SliceState.FREE
            slices.append(SliceStatus(DeviceId(uuid, size, ordinal), size, state, pod, container))
    return tuple(sorted(slices, key=lambda entry: entry.id.ordinal))
