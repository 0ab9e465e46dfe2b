"""The way to the API model: every client's requests and watches, and what goes wrong with them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from mpslice.kube.api import EVENTS, LEASES, Json, Query, Resource
from mpslice.kube.errors import ApiError, Cut, Gone, KubeError, Unreachable
from tests.api.kube import Call, ModelKube
from tests.api.model import ApiModel
from tests.simulation.script import Kind

_DEADLINE = 5.0  # seconds that a client waits for an answer
_TRIES = 10
"""So often a client of Kubernetes tries again within a request when it is told after how long
(client-go, rest/with_retry.go)."""
_LATEST = 4.0  # seconds that an event is late, or a request slow, at worst


_OF_LATENESS = (Kind.LATE, Kind.SLOW)


class Network:
    """`active` counts the troubles that last, `writes` the requests to write by client.

    `tell` gets a line for each of them, `problem` a client that sends more than `most_writes` in a
    second.
    """

    most_writes = 80  # ten pods, each with a gate, a nomination and words; half may be refused

    def __init__(
        self,
        api: ApiModel,
        dice: random.Random,
        tell: Callable[[str], None],
        problem: Callable[[str], None],
    ) -> None:
        self.api = api
        self.active: Counter[Kind] = Counter()
        self.writes: Counter[str] = Counter()
        self.dice = dice
        self.tell = tell
        self._problem = problem
        self._late_until = 0.0
        self._in_second: Counter[str] = Counter()
        self._second = 0

    def wrote(self, client: str, call: Call) -> None:
        """A client sends a request to write."""
        self.tell(f"  {client}: {call.verb} {call.resource.plural}/{call.name}")
        self.writes[client] += 1
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second = second
            self._in_second.clear()
        self._in_second[client] += 1
        if self._in_second[client] > self.most_writes:
            self._problem(f"{client} has sent {self.most_writes} writes within a second")

    def begin(self, kind: Kind) -> None:
        self.active[kind] += 1
        if kind in (Kind.CUT, Kind.AWAY):
            self.api.end_watches(Cut("the stream was cut"))
        elif kind is Kind.EXPIRED:
            self._expire()

    def end(self, kind: Kind) -> None:
        self.active[kind] -= 1
        if kind in _OF_LATENESS:
            self._late_until = asyncio.get_running_loop().time() + 2 * _LATEST
        if kind is Kind.LOST:
            self._expire()
        elif kind is Kind.CUT:
            self.api.end_watches(Cut("the stream was cut"))

    def _expire(self) -> None:
        self.api.compact()
        self.api.end_watches(Gone("too old resource version", status=410))

    @property
    def is_late(self) -> bool:
        """Whether a scheduler may bind by what it saw more than half a second ago, which no agent
        can know (docs/design/agent.md, "Withdrawing").
        """
        late = any(self.active[kind] > 0 for kind in _OF_LATENESS)
        return late or asyncio.get_running_loop().time() < self._late_until

    def is_on(self, kind: Kind, share: float = 1.0) -> bool:
        return self.active[kind] > 0 and self.dice.random() < share

    def latency(self) -> float:
        if self.active[Kind.SLOW] > 0:
            return self.dice.uniform(0.3, 3.0)
        return self.dice.uniform(0.001, 0.01)

    def refusal(self) -> KubeError | None:
        """What a request gets for an answer instead of one."""
        if self.is_on(Kind.AWAY):
            return Unreachable("connection refused")
        if self.is_on(Kind.BUSY, 0.5):
            return ApiError("too many requests", status=429, retry_after=1.0)
        if self.is_on(Kind.BROKEN, 0.5):
            return ApiError("etcdserver: leader changed", status=500)
        return None

    def touch(self, call: Call) -> None:
        """Somebody else writes the object just before."""
        namespace = call.namespace if call.resource.namespaced else ""
        if call.resource not in (EVENTS, LEASES) and self.api.has(
            call.resource, call.name, namespace
        ):
            note = {"metadata": {"annotations": {"example.com/touched": str(self.api.version)}}}
            self.api.change(call.resource, call.name, note, namespace)


class Client(ModelKube):
    """The requests of one process; once it is `dead` none of them is answered or done."""

    def __init__(self, network: Network, name: str) -> None:
        super().__init__(network.api)
        self.name = name
        self.dead = False
        self.network = network

    async def before(self, call: Call) -> None:
        await self._alive()
        if call.is_write and call.resource not in (EVENTS, LEASES):
            self.network.wrote(self.name, call)
        seconds = self.network.latency()
        await asyncio.sleep(min(seconds, _DEADLINE))
        await self._alive()
        refusal = self.network.refusal()
        tries = 0 if self._is_ours else _TRIES
        while refusal is not None and refusal.retry_after and tries:
            tries -= 1
            await asyncio.sleep(refusal.retry_after)
            await self._alive()
            refusal = self.network.refusal()
        if refusal is not None:
            raise refusal
        if call.is_write and self.network.is_on(Kind.CONFLICT, 0.5):
            self.network.touch(call)

    async def after(self, call: Call) -> None:
        await asyncio.sleep(self.network.latency())
        await self._alive()
        if call.is_write and self.network.is_on(Kind.UNANSWERED, 0.5):
            raise Unreachable("the connection was reset")

    async def bind(self, resource: Resource, pod: Any, node: str) -> None:
        """The scheduler's."""
        await self.before(Call("create", resource, pod.name, pod.namespace, subresource="binding"))
        self.api.bind(resource, pod.name, pod.namespace, node, pod.uid)

    async def watch(
        self, resource: Resource, *, namespace: str | None = None, query: Query
    ) -> AsyncIterator[Json]:
        network = self.network
        async for event in super().watch(resource, namespace=namespace, query=query):
            await asyncio.sleep(self._lag())
            await self._alive()
            if event["type"] != "BOOKMARK" and self._is_ours and network.is_on(Kind.LOST, 0.4):
                continue
            yield event
            if network.is_on(Kind.DOUBLED, 0.5):
                yield event

    @property
    def _is_ours(self) -> bool:
        """Whether it is a planner's or an agent's. Nothing of ours could help a scheduler that has
        missed that a slice is gone; a watch of the API server loses nothing."""
        return self.name.startswith(("planner", "agent"))

    def _lag(self) -> float:
        if self.network.active[Kind.LATE] > 0:
            return self.network.dice.uniform(0.0, _LATEST)
        return self.network.dice.uniform(0.0, 0.005)

    async def _alive(self) -> None:
        if self.dead:
            await asyncio.Event().wait()
