"""Small full clusters for tests of preemption: pods on GPUs, and pods that want their place."""

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from mpslice.slices import SliceSize
from planner.decide import decide
from planner.model.constraints import Expression
from planner.model.pods import GATE, Pod, SliceClaim
from planner.model.preemption import DisruptionBudget, Preemption
from planner.view import Decision, View
from tests.planner.lives.agents import Slice
from tests.planner.lives.world import LABEL, START, World, world_of

_OLD = START - timedelta(hours=1)


@dataclass(slots=True)
class Crowd:
    """A cluster whose nodes have such GPUs, by node; pods are put on them by hand."""

    gpus: tuple[tuple[int, ...], ...]
    cpu: int = 64_000
    budgets: dict[str, int] = field(default_factory=dict)
    world: World = field(init=False)

    def __post_init__(self) -> None:
        self.world = world_of(self.gpus, random.Random(1), self.cpu)

    def run(self, name: str, node: int, *slices: tuple[int, int], **of: Any) -> Pod:
        """A running pod that holds slices: (size, index of the GPU). Each is a minute younger than
        the one before.
        """
        pod = self._pod(name, [size for size, _ in slices], node=f"n{node}", **of)
        for size, index in slices:
            stand = self.world.agents[pod.node].gpus[index]
            stand.append(Slice(size, len(stand), pod.key))
        return pod

    def wait(self, name: str, *sizes: int, **of: Any) -> Pod:
        """A pod that waits with its gate."""
        return self._pod(name, list(sizes), **{"gates": (GATE,), **of})

    def _pod(self, name: str, sizes: list[int], **of: Any) -> Pod:
        claims = tuple(SliceClaim(f"c{n}", SliceSize(size), n) for n, size in enumerate(sizes))
        created = _text(_OLD + timedelta(minutes=len(self.world.pods)))
        pod = Pod("default", name, uid=name, claims=claims, **{"created": created, **of})
        self.world.put(pod)
        return pod

    def decide(self, **options: Any) -> Decision:
        layouts = {name: agent.layout() for name, agent in self.world.agents.items()}
        pods = tuple(self.world.pods.values())
        budgets = tuple(
            DisruptionBudget("default", name, (Expression("budget", "In", (name,)),), allowed)
            for name, allowed in self.budgets.items()
        )
        seen = {"now": self.world.wall, "preemption": True, "budgets": budgets}
        return decide(View(self.world.seen_nodes(), layouts, pods, LABEL, **{**seen, **options}))

    def preempted(self, **options: Any) -> dict[str, list[str]]:
        """By the pod that preempts, the names of those to be evicted for it."""
        return {
            preemption.pod.name: names(preemption)
            for preemption in self.decide(**options).plan.preemptions
        }

    def change(self, name: str, **of: Any) -> None:
        self.world.put(replace(self.world.pods[f"default/{name}"], **of))


def names(preemption: Preemption) -> list[str]:
    return [victim.name for victim in preemption.victims]


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
