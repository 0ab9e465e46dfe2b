"""kube-scheduler as far as slices go, in logical time.

As upstream it tries a nominated node first, keeps the room of nominees of the same or a higher
priority (framework/runtime/framework.go, addGENominatedPods), preempts pods of lower priority that
hold the same resource, and tries a refused pod again when something has changed.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from mpslice.slices import resource_name
from planner.model.nodes import Node
from planner.model.pods import Pod

Objection = Callable[[Pod, str], str]
"""What a volume or another plugin says against a node, "" for nothing; for node "" against all."""


class Offers(Protocol):
    """A node's slices."""

    def shown(self) -> Counter[int]:
        """What the node's status has, by size."""
        ...


class World(Protocol):
    """What the scheduler sees and does; `version` is of what may make room for a refused pod."""

    version: int

    @property
    def pods(self) -> Mapping[str, Pod]: ...

    @property
    def nodes(self) -> Mapping[str, Node]: ...

    @property
    def agents(self) -> Mapping[str, Offers]: ...

    @property
    def ending(self) -> Collection[str]: ...

    def cpu(self, name: str) -> int: ...

    def bind(self, pod: Pod, name: str) -> None: ...

    def put(self, pod: Pod) -> None: ...

    def end_soon(self, key: str) -> None: ...


class Scheduler:
    """`clears`: a nomination of a pod that finds no place is cleared when nothing can be preempted,
    as some versions do. `objects` is asked about each pod and node.
    """

    def __init__(
        self, world: World, dice: random.Random, objects: Objection, *, clears: bool
    ) -> None:
        self._world = world
        self._dice = dice
        self._objects = objects
        self._clears = clears
        self._tried: dict[str, int] = {}  # by pod, the version of the world it was tried in
        self.preempted: list[str] = []

    def turn(self) -> bool:
        """Tries every pod that is new or for which something has changed; whether there were any.

        A changed nomination is such a change for pods of the same or a lower priority
        (eventhandlers.go, hasNominatedNodeNameChanged).
        """
        version = self._world.version
        queue = [
            pod
            for key, pod in self._world.pods.items()
            if not pod.node and not pod.gates and self._tried.get(key) != version
        ]
        if not queue:
            return False
        # Of pods that have gone or are bound there is nothing to remember.
        waiting = (key for key, pod in self._world.pods.items() if not pod.node)
        self._tried = {key: self._tried[key] for key in waiting if key in self._tried}
        self._tried.update(dict.fromkeys((pod.key for pod in queue), version))
        self._dice.shuffle(queue)
        queue.sort(key=lambda pod: -pod.priority)
        for pod in queue:
            self._try(pod.key)
        return True

    def _try(self, key: str) -> None:
        pod = self._world.pods[key]
        objection = self._objects(pod, "")
        if objection:
            self._refuse(pod, objection)
            return
        names = sorted(self._world.agents)
        self._dice.shuffle(names)
        names.sort(key=lambda name: name != pod.nominated)
        reasons: Counter[str] = Counter()
        for name in names:
            reason = self._fits(pod, name)
            if not reason:
                self._world.bind(pod, name)
                return
            reasons[reason] += 1
        words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        if self._waits_for_victims(pod):
            self._refuse(pod, words, keeps=True)
        elif not self._preempt(pod):
            self._refuse(pod, words)

    def _refuse(self, pod: Pod, words: str, *, keeps: bool = False) -> None:
        verdict = f"0/{len(self._world.agents)} nodes are available: {words}."
        nominated = "" if self._clears and not keeps else pod.nominated
        if nominated != pod.nominated:
            self._world.version += 1
            self._tried[pod.key] = self._world.version
        self._world.put(replace(pod, unschedulable=verdict, nominated=nominated))

    def _fits(self, pod: Pod, name: str, gone: Iterable[Pod] = ()) -> str:
        """Why the pod does not fit the node, as if the pods `gone` had ended; "" where it does."""
        world, node = self._world, self._world.nodes[name]
        if any(node.labels.get(k) != v for k, v in pod.constraints.node_selector):
            return "node(s) didn't match Pod's node affinity/selector"
        left = {key: value for key, value in world.pods.items() if value not in gone}
        nominees = [
            other
            for other in left.values()
            if other.nominated == name
            and not other.node
            and other.key != pod.key
            and other.priority >= pod.priority
        ]
        there = [other for other in left.values() if other.node == name] + nominees
        if world.cpu(name) - sum(p.requests.cpu_milli for p in there) < pod.requests.cpu_milli:
            return "Insufficient cpu"
        shown = world.agents[name].shown()
        shown.subtract(int(size) for other in there for size in other.seats)
        for size, count in Counter(pod.seats).items():
            if shown[int(size)] < count:
                return f"Insufficient {resource_name(size)}"
        return self._objects(pod, name)

    def _waits_for_victims(self, pod: Pod) -> bool:
        """Whether pods end on its node that it may preempt: it keeps its nomination and preempts no
        others meanwhile (plugins/defaultpreemption, PodEligibleToPreemptOthers).
        """
        ending = self._ending(pod.nominated) if pod.nominated else ()
        return any(other.priority < pod.priority for other in ending)

    def _preempt(self, pod: Pod) -> bool:
        """Ends pods of lower priority that hold a slice of the same size, the fewest on a node."""
        for name in sorted(self._world.agents):
            victims = sorted(
                (
                    other
                    for other in self._world.pods.values()
                    if other.node == name
                    and other.priority < pod.priority
                    and set(other.seats) & set(pod.seats)
                ),
                key=lambda other: (other.priority, other.key),
            )
            for count in range(1, len(victims) + 1):
                if not self._fits(pod, name, victims[:count]):
                    self._world.put(replace(pod, nominated=name))
                    for victim in victims[:count]:
                        self.preempted.append(victim.key)
                        self._world.end_soon(victim.key)
                    return True
        return False

    def _ending(self, name: str) -> list[Pod]:
        ending = self._world.ending
        return [pod for pod in self._world.pods.values() if pod.node == name and pod.key in ending]
