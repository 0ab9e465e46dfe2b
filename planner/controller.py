"""The planner's loop: wake when something changed, decide, act, tell. It polls nothing.

What it wrote itself counts as seen at once, so that the next decision does not start from a state
that the watch has not caught up with.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from mpslice.errors import InvalidNodeLayout, InvalidQuantity
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, Kube
from mpslice.kube.errors import Conflict, KubeError, NotFound
from mpslice.kube.events import EventRecorder
from mpslice.kube.reflector import Change, Reflector, key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.actions import Action, Ungate, WriteSpec
from planner.batch import Batch
from planner.decide import Decision, View, decide
from planner.metrics import Metrics
from planner.model import Node, Pod
from planner.parse import Labels, parse_namespace, parse_node, parse_pod
from planner.perform import perform
from planner.storyteller import Storyteller

_WRITES_AT_ONCE: Final = 16
_WRITE: Final = 5.0  # seconds for one write, so that a slow one does not hold up the rest
_RETRY: Final = 1.0  # seconds until failed writes are decided upon again

_MALFORMED: Final = (InvalidQuantity, AttributeError, KeyError, TypeError, ValueError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A NodeLayout that contradicts the contract; its node is left alone."""

    problem: str


LayoutRecord = NodeLayout | Unreadable


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags that the planner works by; times in seconds.

    Without `gate` the gate is taken from every pod that still carries it, planned or not.
    """

    label: tuple[str, str]
    batch_idle: float
    batch_max: float
    gate: bool
    max_slices_per_gpu: int


class Controller:
    """Follows pods, nodes and NodeLayouts, and carries out what `decide` says."""

    def __init__(
        self, kube: Kube, settings: Settings, recorder: EventRecorder, metrics: Metrics
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._metrics = metrics
        self._storyteller = Storyteller(recorder, settings.label)
        self._batch = Batch(settings.batch_idle, settings.batch_max)
        self._wake = asyncio.Event()
        self._changed = False  # something that a decision looks at
        self._written: dict[str, NodeLayout] = {}  # newer than what the watch has shown
        self._ungated: set[str] = set()  # uids of pods whose gate we took, not seen without it yet
        self._writes = asyncio.Semaphore(_WRITES_AT_ONCE)
        self._pods = Reflector(kube, PODS, _project_pod, self._on_pod)
        self._nodes = Reflector(kube, NODES, _project_node, self._on_node)
        self._layouts = Reflector(kube, NODE_LAYOUTS, _project_layout, self._on_layout)
        self._namespaces = Reflector(kube, NAMESPACES, _project_namespace, self._on_namespace)
        self._reflectors = (self._pods, self._nodes, self._layouts, self._namespaces)

    @property
    def synced(self) -> bool:
        """Whether everything has been listed once."""
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    async def follow(self) -> None:
        """Keeps the local copies up to date; every replica does, so that a new leader is warm."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run())

    async def lead(self) -> None:
        """Decides and acts until cancelled; only the leader may."""
        for reflector in self._reflectors:
            await reflector.synced.wait()
        self._batch.release()
        self._changed = True
        while True:
            if self._changed:
                self._changed = False
                decision = self._decide()
                await self._act(decision.actions)
                # Told after the writes that pods wait for, which Events would only slow down.
                self._storyteller.tell(decision, now=time.monotonic())
            await self._wait()

    async def _wait(self) -> None:
        """Until something changed or the batch is complete."""
        while not self._changed:
            due = self._batch.due(time.monotonic())
            if due == 0:
                self._batch.release()
                self._changed = True
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _trigger(self) -> None:
        self._changed = True
        self._wake.set()

    def _decide(self) -> Decision:
        if self._batch.due(time.monotonic()) == 0:
            self._batch.release()
        started = time.perf_counter()
        decision = decide(self._view())
        self._metrics.decided(decision, seconds=time.perf_counter() - started)
        return decision

    def _view(self) -> View:
        seen = self._layouts.objects
        layouts = {name: record for name, record in seen.items() if isinstance(record, NodeLayout)}
        for name, layout in self._written.items():
            if name in layouts:
                layouts[name] = replace(layout, status=layouts[name].status)
        return View(
            nodes=tuple(self._nodes.objects.values()),
            layouts=layouts,
            pods=tuple(self._assume(pod) for pod in self._pods.objects.values()),
            label=self._settings.label,
            waiting=self._batch.held,
            unreadable=frozenset(seen.keys() - layouts.keys()),
            gate=self._settings.gate,
            max_slices_per_gpu=self._settings.max_slices_per_gpu,
            namespaces=dict(self._namespaces.objects),
        )

    def _assume(self, pod: Pod) -> Pod:
        return replace(pod, gates=()) if pod.gates and pod.uid in self._ungated else pod

    async def _act(self, actions: Iterable[Action]) -> None:
        results = await asyncio.gather(*(self._perform(action) for action in actions))
        if not all(results):
            asyncio.get_running_loop().call_later(_RETRY, self._trigger)

    async def _perform(self, action: Action) -> bool:
        """Whether it worked; one object's trouble never stops the others."""
        try:
            async with self._writes, asyncio.timeout(_WRITE):
                answer = await perform(self._kube, action)
            self._remember(action, answer)
        except (Conflict, NotFound) as error:
            if isinstance(action, WriteSpec):
                self._written.pop(action.layout.name, None)
            log.info("the object has changed meanwhile", extra={"error": str(error)})
            return False
        except (KubeError, InvalidNodeLayout, TimeoutError) as error:
            facts = {**action.facts, "error": str(error) or "no answer in time"}
            log.warning("a write failed, it is tried again", extra=facts)
            return False
        log.info("done", extra=action.facts)
        return True

    def _remember(self, action: Action, answer: Json) -> None:
        match action:
            case WriteSpec(layout=layout):
                written, seen = parse_node_layout(answer), self._layouts.objects.get(layout.name)
                # The watch may have been quicker than the answer.
                if isinstance(seen, NodeLayout) and _is_newer(written, seen):
                    self._written[layout.name] = written
            case Ungate(pod=pod):
                self._ungated.add(pod.uid)
                self._metrics.ungated(pod)

    def _on_pod(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if new is None or not new.gates:
            self._ungated.discard((new or old or _NOBODY).uid)
        pending = new is not None and new.is_pending
        if pending and (old is None or not old.is_pending or (new and old.uid != new.uid)):
            self._batch.arrive(change.key, time.monotonic())
        elif not pending:
            self._batch.leave(change.key)
        if change.key in self._batch.held:
            self._wake.set()  # only the time at which the batch is complete has changed
        elif _weight(old) != _weight(new) or pending:
            self._trigger()

    def _on_node(self, _change: Change[Node]) -> None:
        self._trigger()

    def _on_namespace(self, change: Change[Labels]) -> None:
        if change.old is not None and change.old != change.new:
            self._trigger()  # a new one means nothing before there are pods in it

    def _on_layout(self, change: Change[LayoutRecord]) -> None:
        written, new = self._written.get(change.key), change.new
        if written and not (isinstance(new, NodeLayout) and _is_newer(written, new)):
            del self._written[change.key]
        if isinstance(new, Unreadable) and change.old != new:
            self._storyteller.tell_of_node(change.key, "UnreadableLayout", new.problem)
        self._trigger()


def _is_newer(written: NodeLayout, seen: NodeLayout) -> bool:
    """Whether what we wrote is still ahead of what the watch has shown of the same object."""
    return written.uid == seen.uid and written.generation > seen.generation


_NOBODY: Final = Pod("", "")


def _weight(pod: Pod | None) -> object:
    """What of a pod a plan looks at."""
    if pod is None or (not pod.node and not pod.is_pending):
        return None
    return replace(pod, resource_version="")


def _project_pod(obj: Json) -> Pod | None:
    try:
        return parse_pod(obj)
    except _MALFORMED as error:
        log.error("a pod could not be read", extra={"pod": key_of(obj), "error": str(error)})
        return None


def _project_node(obj: Json) -> Node | None:
    try:
        return parse_node(obj)
    except _MALFORMED as error:
        log.error("a node could not be read", extra={"node": key_of(obj), "error": str(error)})
        return None


def _project_namespace(obj: Json) -> Labels | None:
    try:
        return parse_namespace(obj)
    except _MALFORMED as error:
        log.error("a namespace could not be read", extra={"error": str(error)})
        return None


def _project_layout(obj: Json) -> LayoutRecord:
    try:
        return parse_node_layout(obj)
    except InvalidNodeLayout as error:
        log.error("a NodeLayout could not be read", extra={"error": str(error)})
        return Unreadable(str(error))
