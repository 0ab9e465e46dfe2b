"""The cluster of a life: nodes with agents, pods, and a clock that is only ever put forward."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from planner.model.constraints import Expression, Resources
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.model.preemption import DisruptionBudget
from planner.writes.actions import MANAGED_LABEL
from tests.planner.lives.agents import QUICK, Agent
from tests.planner.test_packing import gb

LABEL = ("part", "mps")
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
_GRACE = 1.0  # seconds that a preempted pod takes to end


@dataclass(slots=True)
class World:
    """What the API server has. Times in seconds since START; `events` are what is to happen."""

    dice: random.Random
    agents: dict[str, Agent]
    nodes: dict[str, Node]
    pods: dict[str, Pod] = field(default_factory=dict)
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    ending: set[str] = field(default_factory=set)
    touched: int = 0  # changes of pods
    version: int = 0  # of what may make room for a refused pod
    failed_admissions: int = 0
    refused_beside: list[str] = field(default_factory=list)
    """Pods that found slices only where others of their spread group are."""
    budget: int | None = None  # of the pods labelled budget=yes so many have to run
    _number: "count[int]" = field(default_factory=count)

    @property
    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        """Something happens that many seconds from now."""
        heapq.heappush(self.events, (self.now + seconds, next(self._number), happens))

    def advance(self, until: float) -> None:
        """Puts the clock forward and lets happen what is due by then."""
        self.now = max(self.now, until)
        while self.events and self.events[0][0] <= self.now:
            _, _, happens = heapq.heappop(self.events)
            happens()
            self.version += 1

    def face(self) -> object:
        """Changes with everything that the planner may see."""
        generations = tuple((a.generation, a.observed) for a in self.agents.values())
        return self.touched, self.version, generations

    def put(self, pod: Pod) -> None:
        """The pod as it is from now on."""
        self.pods[pod.key] = pod
        self.touched += 1

    def seen_nodes(self) -> tuple[Node, ...]:
        return tuple(
            replace(node, slices=gb(dict(self.agents[name].shown())))
            for name, node in self.nodes.items()
        )

    def cpu(self, name: str) -> int:
        return self.nodes[name].allocatable.cpu_milli

    def add(self, pod: Pod) -> None:
        created = self.wall.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.put(replace(pod, created=created))

    def bind(self, pod: Pod, name: str) -> None:
        """The scheduler has bound the pod; its containers start a moment later."""
        self.put(replace(pod, node=name, nominated="", unschedulable=""))
        self.at(QUICK, lambda: self._start(pod.key, name))

    def _start(self, key: str, name: str) -> None:
        pod = self.pods.get(key)
        if pod is None or pod.node != name:
            return
        agent = self.agents[name]
        for size in pod.seats:
            if not agent.take(int(size), key, self.dice, self._siblings(pod)):
                if agent.free()[int(size)]:
                    self.refused_beside.append(key)
                else:
                    self.failed_admissions += 1
                agent.give_back(key)
                self.put(replace(pod, finished=True))
                return

    def _siblings(self, pod: Pod) -> set[str]:
        others = (o for o in self.pods.values() if o.spread and o.group_key == pod.group_key)
        return {other.key for other in others if pod.spread and other.key != pod.key}

    def end(self, key: str) -> None:
        pod = self.pods.pop(key, None)
        self.ending.discard(key)
        self.version += 1
        if pod is not None and pod.node:
            agent = self.agents[pod.node]
            agent.give_back(key)
            self.work(pod.node)

    def _budgeted(self, pod: Pod) -> bool:
        return pod.labels.get("budget") == "yes"

    def _allowed(self) -> int:
        pods = [p for p in self.pods.values() if self._budgeted(p) and p.node]
        healthy = [p for p in pods if not (p.terminating or p.finished)]
        return max(0, len(healthy) - (self.budget or 0))

    def budgets(self) -> tuple[DisruptionBudget, ...]:
        if self.budget is None:
            return ()
        selector = (Expression("budget", "In", ("yes",)),)
        return (DisruptionBudget("default", "b", selector, self._allowed()),)

    def forbids(self, pod: Pod) -> bool:
        """Whether the PodDisruptionBudget forbids the pod's eviction."""
        return self.budget is not None and self._budgeted(pod) and self._allowed() < 1

    def end_soon(self, key: str) -> None:
        if key not in self.ending:
            self.ending.add(key)
            self.put(replace(self.pods[key], terminating=True))
            self.at(_GRACE, lambda: self.end(key))

    def work(self, name: str) -> None:
        """The agent looks at its layout after its delay."""
        self.at(self.agents[name].delay, lambda: self._work(name))

    def _work(self, name: str) -> None:
        agent = self.agents[name]
        agent.apply(self.needed(name))
        if not agent.applied and not agent.fault:
            self.at(1.0, lambda: self._again(name))

    def _again(self, name: str) -> None:
        agent = self.agents[name]
        if not agent.applied and not agent.fault:
            agent.apply(self.needed(name))

    def needed(self, name: str) -> Counter[int]:
        """Slices that pods bound to the node have yet to take."""
        holders = {s.pod for gpu in self.agents[name].gpus for s in gpu}
        return Counter(
            int(size)
            for pod in self.pods.values()
            if pod.node == name and pod.key not in holders and not pod.finished
            for size in pod.seats
        )


def a_world(dice: random.Random) -> World:
    """Between one and four nodes of one or two GPUs."""
    cpu = dice.choice((8_000, 64_000, 64_000))
    gpus = [
        tuple(dice.choice((24, 40, 80, 80)) for _ in range(dice.randint(1, 2)))
        for _ in range(dice.randint(1, 4))
    ]
    return world_of(gpus, dice, cpu)


def world_of(gpus: Sequence[tuple[int, ...]], dice: random.Random, cpu: int = 64_000) -> World:
    """A node for each entry, whose GPUs have so many gb; n0, n2, … are in zone a."""
    agents, nodes = {}, {}
    for index, capacities in enumerate(gpus):
        name = f"n{index}"
        agents[name] = Agent(name, capacities)
        nodes[name] = Node(
            name,
            uid=name,
            labels={
                LABEL[0]: LABEL[1],
                MANAGED_LABEL: "true",
                "host": name,
                "zone": "ab"[index % 2],
            },
            allocatable=Resources(cpu, 1 << 40),
        )
    return World(dice, agents, nodes)
