"""A node agent in logical time: it carves and withdraws as its layout says, or fails to."""

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    STOPPING,
    Condition,
    ConditionType,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
)
from mpslice.slices import SliceSize

QUICK = 0.03  # seconds from a written layout to its acknowledgement


@dataclass(slots=True)
class Slice:
    """A slice that stands; `pod` is the key of its holder, "" while it is free."""

    size: int
    ordinal: int
    pod: str = ""


@dataclass(slots=True)
class Agent:
    """One node's agent and GPUs.

    `fault` is "" or what is wrong with it: `hung` (takes no layout), `refusing` (says
    Applied=False), `away` (its plugin is gone). `delay` is how long it takes to apply a layout.
    """

    name: str
    capacities: tuple[int, ...]
    spec: LayoutSpec = field(default_factory=LayoutSpec)
    generation: int = 1
    observed: int = 1
    applied: bool = True
    fault: str = ""
    delay: float = QUICK
    gpus: list[list[Slice]] = field(init=False)

    def __post_init__(self) -> None:
        self.gpus = [[] for _ in self.capacities]

    def uuid(self, index: int) -> GpuUuid:
        return GpuUuid(f"{self.name}-{index}")

    def write(self, spec: LayoutSpec) -> None:
        """The planner has written a layout."""
        self.spec = spec
        self.generation += 1

    def apply(self, needed: Counter[int]) -> bool:
        """Works on the layout; whether anything changed. `needed` are slices that pods bound to
        the node have yet to take: those are not withdrawn.
        """
        if self.fault in ("hung", "away"):
            return False
        before = self._face()
        self.observed = self.generation
        if self.fault == "refusing":
            self.applied = False
            return self._face() != before
        wanted = {gpu.uuid: Counter(dict(gpu.slices)) for gpu in self.spec.gpus}
        self.applied = True
        spare = Counter(self.free())
        spare.subtract(needed)
        for index in range(len(self.gpus)):
            if self.uuid(index) in wanted:
                self._apply_to(index, wanted[self.uuid(index)], spare)
        return self._face() != before

    def _apply_to(self, index: int, wanted: Counter[SliceSize], spare: Counter[int]) -> None:
        slices = self.gpus[index]
        stand = Counter(s.size for s in slices)
        for size in stand:
            for each in [s for s in slices if s.size == size and not s.pod]:
                if stand[size] > wanted[SliceSize(size)]:
                    if spare[size] <= 0:
                        self.applied = False
                        continue
                    slices.remove(each)
                    stand[size] -= 1
                    spare[size] -= 1
            self.applied &= stand[size] <= wanted[SliceSize(size)]
        for size, count in sorted(wanted.items()):
            while sum(s.size == size for s in slices) < count:
                if sum(s.size for s in slices) + size > self.capacities[index]:
                    self.applied = False
                    break
                taken = {s.ordinal for s in slices if s.size == size}
                ordinal = next(k for k in range(1000) if k not in taken)
                slices.append(Slice(int(size), ordinal))

    def _face(self) -> object:
        return repr((self.gpus, self.observed, self.applied))

    def free(self) -> Counter[int]:
        return Counter(s.size for gpu in self.gpus for s in gpu if not s.pod)

    def shown(self) -> Counter[int]:
        """What the node's status has: nothing while the plugin is away."""
        if self.fault == "away":
            return Counter()
        return Counter(s.size for gpu in self.gpus for s in gpu)

    def take(
        self, size: int, pod: str, dice: random.Random, siblings: Collection[str] = ()
    ) -> bool:
        """A container starts with a free slice of the size; whether there is one on a GPU where
        none of the siblings holds any.
        """
        free = [
            s
            for gpu in self.gpus
            for s in gpu
            if s.size == size and not s.pod and not any(o.pod in siblings for o in gpu)
        ]
        if free:
            dice.choice(free).pod = pod
        return bool(free)

    def give_back(self, pod: str) -> None:
        for gpu in self.gpus:
            for each in gpu:
                if each.pod == pod:
                    each.pod = ""

    def layout(self) -> NodeLayout:
        """The NodeLayout object as the API server has it."""
        away = self.fault == "away"
        status = tuple(
            GpuStatus(
                self.uuid(index),
                index,
                "Test",
                80_000,
                self.capacities[index],
                slices=tuple(
                    SliceStatus(
                        DeviceId(self.uuid(index), SliceSize(s.size), s.ordinal),
                        s.size,
                        SliceState.USED if s.pod else SliceState.FREE,
                        s.pod or None,
                    )
                    for s in slices
                ),
            )
            for index, slices in enumerate(self.gpus)
        )
        conditions = (
            Condition(ConditionType.READY, not away, STOPPING if away else "Test"),
            Condition(ConditionType.APPLIED, self.applied, "Test"),
        )
        status_ = LayoutStatus(self.observed, status, conditions)
        return NodeLayout(self.name, self.spec, status_, self.generation, uid=self.name)
