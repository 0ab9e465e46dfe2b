"""The cluster as a decision sees it: local copies that follow the API server, and our own writes.

What was written counts as seen at once, so that the next decision does not start from a state that
the watch has not caught up with. What cannot be read is no reason to stop: it is named.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mpslice.errors import InvalidNodeLayout, InvalidQuantity
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, Kube
from mpslice.kube.reflector import Change, Reflector, key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.gate.bindable import is_offered
from planner.gate.leaving import Leaving, Seat
from planner.model.constraints import NAMESPACE_NAME
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.state.parse import Labels, parse_namespace, parse_node, parse_pod
from planner.state.podgroups import PodGroups
from planner.state.preemptible import BUDGETS, parse_budget
from planner.state.volumes import Volumes
from planner.writes.actions import Action, Inform, Nominate, Ungate, WriteSpec

_GROUPS: Final = 5.0  # seconds that a new leader waits to learn of what it can do without

_MALFORMED: Final = (InvalidQuantity, AttributeError, KeyError, TypeError, ValueError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A NodeLayout that contradicts itself or its format; its node is left alone."""

    problem: str


LayoutRecord = NodeLayout | Unreadable


class Cluster:
    """Local copies of pods, nodes, NodeLayouts, namespaces and PodGroups.

    `on_pod` hears of every change of a pod, `on_change` of any other. PodDisruptionBudgets are
    followed with `preemption` alone.
    """

    def __init__(
        self,
        kube: Kube,
        on_pod: Callable[[Change[Pod]], None],
        on_change: Callable[[], None],
        *,
        preemption: bool = False,
    ) -> None:
        self._on_pod = on_pod
        self._on_change = on_change
        self._written: dict[str, NodeLayout] = {}  # newer than what the watch has shown
        self._answered: dict[str, Pod] = {}  # likewise, by uid
        self._pods = Reflector(kube, PODS, _project_pod, self._pod_changed)
        self._leaving = Leaving()
        self._nodes = Reflector(kube, NODES, _project_node, self._node_changed)
        self._layouts = Reflector(kube, NODE_LAYOUTS, _project_layout, self._layout_changed)
        self._namespaces = Reflector(kube, NAMESPACES, _project_namespace, self._namespace_changed)
        self._groups = PodGroups(kube, on_change)
        self._volumes = Volumes(kube, on_change)
        self._budgets = Reflector(kube, BUDGETS, _project_budget, self._budget_changed)
        followed = (self._pods, self._nodes, self._layouts, self._namespaces)
        self._reflectors = (*followed, self._budgets) if preemption else followed

    async def follow(self) -> None:
        """Keeps the local copies up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run())
            for reflector in self._volumes.reflectors:
                tasks.create_task(reflector.run())
            tasks.create_task(self._groups.run())

    @property
    def is_synced(self) -> bool:
        """Whether everything that every cluster has was listed once."""
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    async def synced(self) -> None:
        """Waits until a decision can be made."""
        for reflector in self._reflectors:
            await reflector.synced.wait()
        try:
            async with asyncio.timeout(_GROUPS):
                await self._groups.known.wait()
        except TimeoutError:
            log.warning("it is not known whether there are PodGroups; going on without them")
        try:
            async with asyncio.timeout(_GROUPS):
                for reflector in self._volumes.reflectors:
                    await reflector.synced.wait()
        except TimeoutError:
            log.warning("volumes are left to the scheduler: may the planner list them?")

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._nodes.objects.values())

    @property
    def pods(self) -> tuple[Pod, ...]:
        # Asked for at every decision: what is to be done for few pods is not done for all.
        pods = dict(self._pods.objects)
        users = set(self._volumes.users)
        for uid, answered in self._answered.items():
            seen = pods.get(answered.key)
            if seen is not None and seen.uid == uid:
                pods[answered.key] = answered
                users.add(answered.key)
        for key in users:
            pod = pods.get(key)
            if pod is not None and pod.is_pending:
                pods[key] = self._volumes.resolve(pod)
        return tuple(pods.values())

    def is_gated(self, pod: Pod) -> bool:
        """Whether the pod, which was seen earlier, is there still and has our gate still."""
        seen = self._pods.objects.get(pod.key)
        if seen is None or seen.uid != pod.uid:
            return False
        return self._answered.get(pod.uid, seen).gated

    def is_offered(self, place: Placement) -> bool:
        """Whether the slices of the placement are bindable still."""
        layout = self._layouts.objects.get(place.node)
        node = self._nodes.objects.get(place.node)
        return is_offered(place, layout if isinstance(layout, NodeLayout) else None, node)

    @property
    def layouts(self) -> dict[str, NodeLayout]:
        """By node; the status as last seen, the spec as last written."""
        layouts = {
            name: record
            for name, record in self._layouts.objects.items()
            if isinstance(record, NodeLayout)
        }
        for name, layout in self._written.items():
            if name in layouts:
                layouts[name] = replace(layout, status=layouts[name].status)
        return layouts

    @property
    def unreadable(self) -> dict[str, str]:
        """Nodes whose NodeLayout is none, and why."""
        return {
            name: record.problem
            for name, record in self._layouts.objects.items()
            if isinstance(record, Unreadable)
        }

    def leaving(self, now: float) -> frozenset[Seat]:
        """What nodes show no more and kube-scheduler may still see (monotonic seconds)."""
        return self._leaving.seats(now, self._nodes.outage)

    def leaving_due(self, now: float) -> float | None:
        """When that may be less, if nothing happens (monotonic seconds)."""
        return self._leaving.due(now, self._nodes.outage)

    @property
    def namespaces(self) -> dict[str, Labels]:
        return dict(self._namespaces.objects)

    @property
    def budgets(self) -> tuple[DisruptionBudget, ...]:
        """The PodDisruptionBudgets."""
        return tuple(self._budgets.objects.values())

    @property
    def minimums(self) -> dict[str, int]:
        """The PodGroups' minMember by `Pod.group_key`."""
        return dict(self._groups.minimums)

    def on_newest(self, action: Action) -> Action:
        """A layout on the newest version that is known of its object, where its spec is still the
        one that was decided on: its agent's reports change the version and make no spec wrong.
        """
        if not isinstance(action, WriteSpec):
            return action
        base = action.layout
        seen = self._written.get(base.name) or self._layouts.objects.get(base.name)
        if not isinstance(seen, NodeLayout):
            return action
        if (seen.uid, seen.generation) != (base.uid, base.generation):
            return action
        return replace(action, layout=replace(base, resource_version=seen.resource_version))

    def remember(self, action: Action, answer: Json) -> None:
        """What the API server answered to a write; raises InvalidNodeLayout for what is none."""
        match action:
            case WriteSpec(layout=layout):
                written, seen = parse_node_layout(answer), self._layouts.objects.get(layout.name)
                # The watch may have been quicker than the answer.
                if isinstance(seen, NodeLayout) and _is_newer(written, seen):
                    self._written[layout.name] = written
            case Ungate() | Nominate() | Inform():
                patched = _project_pod(answer)
                seen_pod = self._pods.objects.get(action.pod.key)
                if patched and seen_pod and _is_newer_pod(patched, seen_pod):
                    self._answered[patched.uid] = patched

    def forget(self, action: Action) -> None:
        """A write was refused because the object is another one by now: the watch knows better."""
        match action:
            case WriteSpec(layout=layout):
                self._written.pop(layout.name, None)
            case Ungate(pod=pod) | Nominate(pod=pod) | Inform(pod=pod):
                self._answered.pop(pod.uid, None)

    def _pod_changed(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        self._volumes.note(change)
        for pod in (old, new):
            answered = self._answered.get(pod.uid) if pod is not None else None
            if answered and not (new and _is_newer_pod(answered, new)):
                del self._answered[answered.uid]
        self._on_pod(change)

    def _node_changed(self, change: Change[Node]) -> None:
        now = time.monotonic()
        self._leaving.changed(change.old, change.new, now, self._nodes.outage)
        self._on_change()

    def _namespace_changed(self, change: Change[Labels]) -> None:
        # A pod may be seen before its namespace, which is taken to have no label but its name then.
        unknown = {NAMESPACE_NAME: change.key}
        before, now = (unknown if each is None else each for each in (change.old, change.new))
        if before != now:
            self._on_change()

    def _budget_changed(self, change: Change[DisruptionBudget]) -> None:
        if change.old != change.new:
            self._on_change()

    def _layout_changed(self, change: Change[LayoutRecord]) -> None:
        written, new = self._written.get(change.key), change.new
        if written and not (isinstance(new, NodeLayout) and _is_newer(written, new)):
            del self._written[change.key]
        self._on_change()


def _is_newer(written: NodeLayout, seen: NodeLayout) -> bool:
    """Whether what we wrote is still ahead of what the watch has shown of the same object."""
    return written.uid == seen.uid and written.generation > seen.generation


def _is_newer_pod(answered: Pod, seen: Pod) -> bool:
    return answered.uid == seen.uid and _version(answered) > _version(seen)


def _version(pod: Pod) -> int:
    # Comparable as numbers: KEP-5504, and so in every etcd-backed API server before it.
    return int(pod.resource_version) if pod.resource_version.isdigit() else 0


def _project_pod(obj: Json) -> Pod | None:
    try:
        return parse_pod(obj)
    except _MALFORMED as error:
        log.error("a pod could not be read", extra={"pod": key_of(obj), "error": str(error)})
        return _unreadable_pod(obj, error)


def _unreadable_pod(obj: Json, error: Exception) -> Pod | None:
    """What is known of a pod that cannot be read: that its node holds more than can be counted."""
    spec = obj.get("spec")
    node = spec.get("nodeName") if isinstance(spec, Mapping) else None
    if not node or not isinstance(node, str):
        return None
    namespace, _, name = key_of(obj).rpartition("/")
    problem = f"pod {key_of(obj)} on it cannot be read ({error})"
    return Pod(namespace, name, str(obj["metadata"].get("uid")), node=node, problem=problem)


def _project_node(obj: Json) -> Node:
    """A node that cannot be read still counts, with its labels, as one that holds nothing."""
    try:
        return parse_node(obj)
    except _MALFORMED as error:
        metadata = obj["metadata"]
        problem = f"its Node object cannot be read ({error})"
        return Node(
            name=metadata["name"],
            uid=metadata.get("uid") or "",
            labels=_texts(metadata.get("labels")),
            ready=False,
            problem=problem,
        )


def _texts(labels: object) -> Labels:
    """Of labels that may be none, those that are."""
    if not isinstance(labels, Mapping):
        return {}
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def _project_namespace(obj: Json) -> Labels | None:
    try:
        return parse_namespace(obj)
    except _MALFORMED as error:
        log.error("a namespace could not be read", extra={"error": str(error)})
        return None


def _project_budget(obj: Json) -> DisruptionBudget | None:
    try:
        return parse_budget(obj)
    except _MALFORMED as error:
        log.error("a PodDisruptionBudget could not be read", extra={"error": str(error)})
        return None


def _project_layout(obj: Json) -> LayoutRecord:
    try:
        return parse_node_layout(obj)
    except InvalidNodeLayout as error:
        log.error("a NodeLayout could not be read", extra={"error": str(error)})
        return Unreadable(str(error))
