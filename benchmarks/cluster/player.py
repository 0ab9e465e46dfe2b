"""Plays the agents and kubelets of a `Fleet`: writes what they would, and sees to no GPU.

Much lighter than real agents, so that the programs under test have the machine.
"""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.cluster.fleet import Fleet
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType, Resource
from mpslice.kube.errors import NotFound
from mpslice.kube.reflector import Change, Reflector
from mpslice.kube.session import Session
from mpslice.slices import SliceSize, parse_resource

_RUNS: Final = (4.0, 12.0)  # seconds that a pod runs


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a pod, what the kubelet's part goes by, and what makes an event of it."""

    version: str
    node: str
    size: SliceSize
    ended: bool


def _seen(pod: Json) -> Seen:
    (container,) = pod["spec"]["containers"]
    sizes = [parse_resource(name) for name in container["resources"]["limits"]]
    return Seen(
        pod["metadata"]["resourceVersion"],
        pod["spec"].get("nodeName") or "",
        next(size for size in sizes if size is not None),
        pod["status"].get("phase") in ("Succeeded", "Failed"),
    )


@dataclass(slots=True)
class Player:
    """Plays the agents and kubelets of all nodes; `events` counts changes of pods since the start.

    `refused` are pods that were bound where no slice was free.
    """

    kube: Session
    fleet: Fleet
    events: int = 0
    lived: int = 0
    refused: list[str] = field(default_factory=list)
    touched: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once something was written of a pod without room, which only the planner does."""
    _began: set[str] = field(default_factory=set)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _dice: random.Random = field(default_factory=lambda: random.Random(2))

    reflectors: tuple[Reflector[Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.reflectors = (
            Reflector(self.kube, PODS, _seen, self.saw_pod, namespace=self.fleet.namespace),
            Reflector(self.kube, NODE_LAYOUTS, _generation, self.saw_layout),
        )

    def saw_pod(self, change: Change[Seen]) -> None:
        self.events += 1
        new, name = change.new, change.key.partition("/")[2]
        if change.old is not None and name in self.fleet.waiting:
            self.touched.set()
        if new is None or not new.node or new.ended or name in self.fleet.running:
            return
        if name not in self._began:
            self._began.add(name)
            self._do(self._run(name, change.key, new))

    def saw_layout(self, change: Change[tuple[int, Json]]) -> None:
        if change.new is None:
            return
        generation, spec = change.new
        node = self.fleet.nodes[change.key]
        if generation > node.generation:
            node.carry_out(spec, generation)
            self._do(self.report(change.key, slices=True))

    async def _run(self, name: str, key: str, pod: Seen) -> None:
        node = self.fleet.nodes[pod.node]
        if not node.take(pod.size, key):
            self.refused.append(name)
        await asyncio.gather(self.say(name, "Running"), self.report(pod.node))
        await asyncio.sleep(self._dice.uniform(*_RUNS))
        node.give_back(key)
        await asyncio.gather(self.say(name, "Succeeded"), self.report(pod.node))
        with suppress(NotFound):
            await self.kube.delete(PODS, name, namespace=self.fleet.namespace, grace_seconds=0)
        self.lived += 1

    async def say(self, name: str, phase: str) -> None:
        """Writes a pod's phase."""
        status = {"phase": phase, "startTime": "2026-01-01T00:00:00Z"}
        await _patch(self.kube, PODS, name, status, self.fleet.namespace)

    async def report(self, name: str, *, slices: bool = False) -> None:
        """The layout's status as it is when its turn comes, and what the node offers."""
        node = self.fleet.nodes[name]
        async with self._locks.setdefault(name, asyncio.Lock()):
            await _patch(self.kube, NODE_LAYOUTS, name, node.status())
            if slices:
                await _patch(self.kube, NODES, name, node.node_status())

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Everything that was begun is done."""
        while self._tasks:
            await asyncio.gather(*self._tasks)


def _generation(layout: Json) -> tuple[int, Json]:
    return layout["metadata"]["generation"], layout["spec"]


async def _patch(
    kube: Session, resource: Resource, name: str, status: Json, namespace: str | None = None
) -> None:
    await kube.patch(
        resource,
        name,
        {"status": status},
        type=PatchType.MERGE,
        namespace=namespace,
        subresource="status",
    )
