"""Random layouts while pods come and go: whatever comes when, all views of the node agree.

`MPSLICE_LAYOUT_CHANGES` sets how many (default 100; 300 take minutes), `MPSLICE_LAYOUT_SEED` which.
"""

import os
import random
from dataclasses import dataclass, field

import pytest

from tests.nodeagent.real import checker
from tests.nodeagent.real.cluster import Cluster, Slices
from tests.waiting import eventually

pytestmark = [
    pytest.mark.usefixtures("machine_without_node"),
]

CHANGES = int(os.environ.get("MPSLICE_LAYOUT_CHANGES", "100"))
SEED = int(os.environ.get("MPSLICE_LAYOUT_SEED", "20"))
SIZES = (5, 10, 20, 40)
MOST_PODS = 6
MOST_BEHIND = (
    4  # changes in a row, for the write that mends the kubelet's checkpoint may be overtaken
)
RUNNING_EVERY = 12  # pods; the others are admitted and never started, which is all it takes here


@dataclass
class Traffic:
    """What comes next, from the dice alone."""

    dice: random.Random
    made: int = 0
    alive: dict[str, int] = field(default_factory=dict)

    def layout(self) -> tuple[Slices, Slices]:
        return (self._gpu(), self._gpu())

    def _gpu(self) -> Slices:
        left = checker.CAPACITY
        counts: Slices = {}
        for size in self.dice.sample(SIZES, len(SIZES)):
            count = self.dice.randint(0, min(left // size, 6))
            if count:
                counts[f"{size}gb"] = count
            left -= count * size
        return counts

    def going(self) -> list[str]:
        names = [name for name in self.alive if self.dice.random() < 0.2]
        for name in names:
            del self.alive[name]
        return names

    def coming(self) -> list[tuple[str, int, bool]]:
        count = min(self.dice.choice((0, 1, 1, 2)), MOST_PODS - len(self.alive))
        pods = []
        for _ in range(count):
            self.made += 1
            name, size = f"pod-{self.made}", self.dice.choice(SIZES)
            self.alive[name] = size
            pods.append((name, size, self.made % RUNNING_EVERY != 0))
        return pods


async def test_all_views_agree_after_every_change(cluster: Cluster) -> None:
    traffic = Traffic(random.Random(SEED))
    kubelet = cluster.node.kubelet_pid
    holders: dict[str, str] = {}
    behind = 0
    for change in range(CHANGES):
        layout = traffic.layout()
        going, coming = traffic.going(), traffic.coming()
        if traffic.dice.random() < 0.5:  # pods first, or the layout first
            await _move(cluster, going, coming)
            generation = await cluster.lay_out(*layout)
        else:
            generation = await cluster.lay_out(*layout)
            await _move(cluster, going, coming)
        await cluster.acknowledged(generation)
        before = {id_: pod for id_, pod in holders.items() if pod in traffic.alive}
        holders = await _at_rest(cluster, layout, f"change {change} of seed {SEED}")
        assert before.items() <= holders.items(), f"a used slice was withdrawn: {before}, {holders}"
        lag = checker.stale(await cluster.kubelet_view(), await cluster.pods())
        behind = behind + 1 if lag else 0
        assert behind < MOST_BEHIND, f"checkpoint out of date for {behind} changes: {lag}"
    assert cluster.node.kubelet_pid == kubelet
    assert await cluster.failures() == []


async def _move(cluster: Cluster, going: list[str], coming: list[tuple[str, int, bool]]) -> None:
    if going:
        await cluster.delete(*going, grace=0)
    for name, size, stuck in coming:
        await cluster.create(name, size, stuck=stuck)


async def _at_rest(cluster: Cluster, layout: tuple[Slices, Slices], when: str) -> dict[str, str]:
    """Waits until all views agree, and says who holds what."""
    last: list[str] = []

    async def agree() -> dict[str, str] | None:
        view, pods = await cluster.kubelet_view(), await cluster.pods()
        status = await cluster.status()
        last[:] = checker.disagreements(view, status, pods)
        last.extend(checker.departures_from_plan(layout, view.healthy, view.listed))
        if not last and await cluster.allocatable() != checker.allocatable_of(view.healthy):
            last.append(f"allocatable {await cluster.allocatable()}, slices {view.healthy}")
        return None if last else {"": when, **view.listed}

    try:
        found = await eventually(agree, when, every=0.02)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from error
    assert found is not None
    return {id_: pod for id_, pod in found.items() if id_}
