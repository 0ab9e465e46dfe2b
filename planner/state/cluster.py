"""The cluster as a decision sees it: local copies that follow the API server, and our own writes.

What was written counts as seen at once, so that the next decision does not start from a state that
the watch has not caught up with.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, Kube
from mpslice.kube.outage import (
    LINGER,
    LONGEST,
    Outages,
    catching_up,
    is_blind,
    seconds_behind,
    with_start,
)
from mpslice.kube.reflector import Change, Reflector
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.gate.bindable import is_offered
from planner.gate.leaving import Leaving, NodeSize
from planner.model.constraints import NAMESPACE_NAME
from planner.model.nodes import Node
from planner.model.plan import Placement
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.state.applied import applied_by, is_news, with_applied
from planner.state.parse import Labels
from planner.state.podgroups import PodGroups
from planner.state.preemptible import BUDGETS
from planner.state.projection import (
    LayoutRecord,
    Unreadable,
    project_budget,
    project_layout,
    project_namespace,
    project_node,
    project_pod,
)
from planner.state.volumes import Volumes
from planner.writes.actions import Action, Inform, Nominate, Ungate, WriteSpec

_GROUPS: Final = 5.0  # seconds that a new leader waits to learn of what it can do without

log = logging.getLogger(__name__)


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
        self._applied: dict[str, NodeLayout] = {}  # of which the layout's status does not tell yet
        self._pods = Reflector(kube, PODS, project_pod, self._pod_changed)
        self._leaving = Leaving()
        self._started = time.monotonic()
        self._lags_until = self._started  # by what an earlier leader knew
        self._nodes = Reflector(
            kube, NODES, project_node, self._node_changed, on_recovery=on_change
        )
        self._layouts = Reflector(kube, NODE_LAYOUTS, project_layout, self._layout_changed)
        self._namespaces = Reflector(kube, NAMESPACES, project_namespace, self._namespace_changed)
        self._groups = PodGroups(kube, on_change)
        self._volumes = Volumes(kube, on_change)
        self._budgets = Reflector(kube, BUDGETS, project_budget, self._budget_changed)
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
        return is_offered(place, self._known(place.node), self._nodes.objects.get(place.node))

    @property
    def layouts(self) -> dict[str, NodeLayout]:
        """By node; the spec as last written, the status as last seen or told by the node."""
        every = ((name, self._known(name)) for name in self._layouts.objects)
        return {name: layout for name, layout in every if layout is not None}

    def _known(self, name: str) -> NodeLayout | None:
        """The layout, with the status that is still to come where the node tells it already."""
        layout, applied = self._layout(name), self._applied.get(name)
        return layout if layout is None or applied is None else with_applied(layout, applied)

    def _layout(self, name: str) -> NodeLayout | None:
        """The spec as last written, the status as last seen."""
        seen = self._layouts.objects.get(name)
        if not isinstance(seen, NodeLayout):
            return None
        written = self._written.get(name)
        return seen if written is None else replace(written, status=seen.status)

    def _note_applied(self, name: str) -> None:
        """What the node tells of the layout, once both are there, until the layout tells it."""
        layout = self._layout(name)
        if layout is None:
            self._applied.pop(name, None)
            return
        node = self._nodes.objects.get(name)
        applied = applied_by(node, layout, self._applied.get(name))
        if applied is not None and is_news(applied, layout):
            self._applied[name] = applied
        else:
            self._applied.pop(name, None)

    def _note_replaced(self, before: LayoutRecord | None, name: str) -> None:
        """The spec may be another than it was; `before` is the layout as it was."""
        newest = self._layout(name)
        if not isinstance(before, NodeLayout):
            return
        if newest is None or newest.version_tag != before.version_tag:
            node = self._nodes.objects.get(name)
            self._leaving.replaced(before, newest, node, time.monotonic(), self._outages)

    @property
    def unreadable(self) -> dict[str, str]:
        """Nodes whose NodeLayout is none, and why."""
        return {
            name: record.problem
            for name, record in self._layouts.objects.items()
            if isinstance(record, Unreadable)
        }

    def leaving(self, now: float) -> frozenset[NodeSize]:
        """What nodes show no more and kube-scheduler may still see (monotonic seconds)."""
        return self._leaving.seen_still(now, self._outages)

    def catching_up(self, now: float) -> bool:
        """Whether kube-scheduler may still not follow after an outage (monotonic seconds)."""
        return now < self._lags_until or catching_up(now, self._nodes.outages)

    def seconds_behind(self, now: float) -> float:
        """For how many seconds more; where an outage lasts, if it ended now."""
        return max(self._lags_until - now, seconds_behind(now, self._nodes.outages))

    def inherit(self, seconds: float) -> None:
        """An earlier leader knew that kube-scheduler may lag for so many seconds more.

        Which slices went meanwhile this process does not know: it started later, or follows another
        API server.
        """
        until = time.monotonic() + min(seconds, LINGER + LONGEST)
        self._lags_until = max(self._lags_until, until)

    def is_blind(self, now: float) -> bool:
        """Whether kube-scheduler may see slices that are gone, and it is not known which: nodes
        cannot be followed, or an earlier leader could not follow them."""
        return now < self._lags_until or is_blind(self._nodes.outages)

    @property
    def _outages(self) -> Outages:
        """Times in which nodes could not be followed."""
        return with_start(self._started, self._nodes.outages)

    def unanswered(self, now: float) -> None:
        """A write was not answered, or with an error of the API server's own."""
        self._nodes.unanswered(now)

    def leaving_due(self, now: float) -> float | None:
        """When that may be less, if nothing happens (monotonic seconds)."""
        due = self._leaving.due(now, self._outages)
        return min(due or math.inf, self._lags_until) if now < self._lags_until else due

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
                    before = self._layout(layout.name)
                    self._written[layout.name] = written
                    self._note_replaced(before, layout.name)
                    self._note_applied(layout.name)
            case Ungate() | Nominate() | Inform():
                patched = project_pod(answer)
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
        now, layout = time.monotonic(), self._layout(change.key)
        newest = "" if layout is None else layout.version_tag
        self._leaving.changed(change.old, change.new, now, self._outages, newest)
        self._note_applied(change.key)
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
        before = written or change.old
        if written and not (isinstance(new, NodeLayout) and _is_newer(written, new)):
            del self._written[change.key]
        self._note_replaced(before, change.key)
        self._note_applied(change.key)
        self._on_change()


def _is_newer(written: NodeLayout, seen: NodeLayout) -> bool:
    """Whether what we wrote is still ahead of what the watch has shown of the same object."""
    return written.uid == seen.uid and written.generation > seen.generation


def _is_newer_pod(answered: Pod, seen: Pod) -> bool:
    return answered.uid == seen.uid and _version(answered) > _version(seen)


def _version(pod: Pod) -> int:
    # Comparable as numbers: KEP-5504, and so in every etcd-backed API server before it.
    return int(pod.resource_version) if pod.resource_version.isdigit() else 0
