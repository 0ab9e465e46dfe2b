"""kube-scheduler of the planner's lives, on the API: it sees by watches and writes by requests."""

import asyncio
import math
import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any, NoReturn

from mpslice.kube.api import NODES, PODS, Json, PatchType
from mpslice.kube.errors import Conflict, KubeError, NotFound
from mpslice.kube.outage import CALM, is_blind
from mpslice.kube.reflector import Backoff, Change, Reflector
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.state.parse import parse_node, parse_pod
from tests.planner.lives.scheduler import Scheduler
from tests.simulation.clock import Clock
from tests.simulation.network import Client

_FLUSH = 60.0  # seconds after which a refused pod is tried again whatever happens


class ClientGoBackoff(Backoff):
    """The delays of client-go's reflector (tools/cache/reflector.go, defaultBackoffInit): from 0.8
    to 30 seconds and as much again at random; they begin anew after two calm minutes, not with the
    first event."""

    _base = 0.8
    _asked = -math.inf

    def reset(self) -> None: ...

    def delay(self, retry_after: float | None = None) -> float:
        now = time.monotonic()
        if now - self._asked > CALM:
            self._base = 0.8
        self._asked = now
        base, self._base = self._base, min(30.0, 2 * self._base)
        return base * random.uniform(1.0, 2.0)


class _Seen:
    """A node as the scheduler sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def shown(self) -> Counter[int]:
        return Counter({int(size): count for size, count in self._node.slices.items()})


class SchedulerProcess:
    """`pods` and `agents` are what `Scheduler` asks of a world; what it decides is written.

    `blind` are the pods, by key, that it bound while it could not follow the nodes, and since when
    it could not (monotonic).
    """

    def __init__(self, client: Client, clock: Clock, dice: random.Random) -> None:
        self.version = 0
        self.pods: dict[str, Pod] = {}
        self.agents: dict[str, _Seen] = {}
        self.nodes: dict[str, Node] = {}
        self.blind: dict[str, float] = {}
        self._client = client
        self._clock = clock
        self._dice = dice
        self._wake = asyncio.Event()
        self._assumed: dict[str, str] = {}  # node by uid
        self._tasks: asyncio.TaskGroup
        self._looks_again = False
        self._scheduler = Scheduler(self, dice, lambda _pod, _node: "", clears=False)
        self._pod_watch = Reflector(
            client, PODS, parse_pod, self._pod_changed, backoff=ClientGoBackoff()
        )
        self._node_watch = Reflector(
            client, NODES, parse_node, self._node_changed, backoff=ClientGoBackoff()
        )

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._pod_watch.run())
            tasks.create_task(self._node_watch.run())
            while True:
                try:
                    async with asyncio.timeout(_FLUSH):
                        await self._wake.wait()
                except TimeoutError:
                    self.version += 1
                self._wake.clear()
                await asyncio.sleep(self._dice.uniform(0.001, 0.02))
                self._scheduler.turn()

    def _pod_changed(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if old is not None:
            self.pods.pop(change.key, None)
        if new is not None:
            if new.node or new.finished:
                self._assumed.pop(new.uid, None)
            assumed = self._assumed.get(new.uid)
            if not (new.finished or (new.terminating and not new.node)):
                self.pods[change.key] = replace(new, node=assumed) if assumed else new
        if _weight(old) != _weight(new):
            self.version += 1
            self._wake.set()

    def _node_changed(self, change: Change[Node]) -> None:
        name = change.key
        if change.new is None:
            self.agents.pop(name, None)
            self.nodes.pop(name, None)
        else:
            self.nodes[name], self.agents[name] = change.new, _Seen(change.new)
        self.version += 1
        self._wake.set()

    # What `Scheduler` asks of a world.

    @property
    def ending(self) -> set[str]:
        return {key for key, pod in self.pods.items() if pod.terminating}

    def cpu(self, name: str) -> int:
        return self.nodes[name].allocatable.cpu_milli

    def bind(self, pod: Pod, name: str) -> None:
        self.blind.pop(pod.key, None)
        if is_blind(outages := self._node_watch.outages):
            self.blind[pod.key] = min(o.begun for o in outages if o.ended is None)
        self._assumed[pod.uid] = name
        self.pods[pod.key] = replace(pod, node=name)
        self._tasks.create_task(self._bind(pod, name))

    def put(self, pod: Pod) -> None:
        """A verdict, or a nomination."""
        before = self.pods[pod.key]
        self.pods[pod.key] = pod
        if before.unschedulable != pod.unschedulable or before.nominated != pod.nominated:
            self._tasks.create_task(self._say(pod, nominate=before.nominated != pod.nominated))

    def end_soon(self, key: str) -> None:
        pod = self.pods[key]
        if not pod.terminating:
            self.pods[key] = replace(pod, terminating=True)
            self._tasks.create_task(self._evict(pod))

    # Requests.

    async def _bind(self, pod: Pod, node: str) -> None:
        try:
            await self._client.bind(PODS, pod, node)
        except KubeError:
            self._assumed.pop(pod.uid, None)
            seen = self._pod_watch.objects.get(pod.key)
            if seen is not None and not seen.finished:
                self.pods[pod.key] = seen
            self._again()

    async def _say(self, pod: Pod, *, nominate: bool) -> None:
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": pod.unschedulable,
            "lastTransitionTime": self._clock.stamp(),
        }
        status: Json = {"conditions": [condition]} if pod.unschedulable else {}
        if nominate:
            status["nominatedNodeName"] = pod.nominated or None
        await self._attempt(
            self._client.patch(
                PODS,
                pod.name,
                {"metadata": {"uid": pod.uid}, "status": status},
                type=PatchType.STRATEGIC,
                namespace=pod.namespace,
                subresource="status",
            )
        )

    async def _evict(self, pod: Pod) -> None:
        await self._attempt(
            self._client.delete(PODS, pod.name, namespace=pod.namespace, uid=pod.uid)
        )

    async def _attempt(self, request: Any) -> None:
        try:
            await request
        except (Conflict, NotFound):
            return
        except KubeError:
            self._again()

    def _again(self) -> None:
        """What could not be written is decided anew, from what the watches show, a second later."""
        if not self._looks_again:
            self._looks_again = True
            asyncio.get_running_loop().call_later(1.0, self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self.version += 1
        for key, seen in self._pod_watch.objects.items():
            if key in self.pods and seen.uid not in self._assumed:
                self.pods[key] = seen
        self._wake.set()


def _weight(pod: Pod | None) -> object:
    """What of a pod may make room for another, or makes the pod itself another."""
    if pod is None:
        return None
    return pod.uid, pod.node, pod.gates, pod.nominated, pod.finished, pod.terminating
