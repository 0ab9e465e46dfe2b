"""Thousands of small clusters: who is evicted is compared with every choice there is.

The optimum is found plainly: all subsets of the pods of a node, read from the cluster itself.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import combinations, product

import pytest

from planner.model.constraints import Resources
from planner.model.pods import Pod
from planner.state.preemptible import SYSTEM
from tests.planner.crowded import Crowd

_SEEDS = 2_000
_AT_ONCE = 250
_SIZES = (2, 3, 4, 5, 8, 10, 16)

Cost = tuple[tuple[int, ...], int, int]
"""GB by priority from the highest, the number of pods, and their age."""


def crowd_of(dice: random.Random) -> tuple[Crowd, Pod]:
    """Up to three nodes of one or two GPUs, nearly full, and a pod that wants a place."""
    gpus = tuple(
        tuple(dice.choice((8, 16, 20)) for _ in range(dice.choice((1, 1, 2))))
        for _ in range(dice.randint(1, 3))
    )
    crowd = Crowd(gpus, cpu=dice.choice((64_000, 6_000)), budgets={"b": dice.randint(0, 2)})
    for node, capacities in enumerate(gpus):
        left = list(capacities)
        cpu = crowd.cpu
        for number in range(dice.randint(1, 7)):
            index = dice.randrange(len(left))
            size, milli = dice.choice(_SIZES), dice.choice((0, 500, 2_000))
            slices = [(size, index)]
            if len(left) > 1 and dice.random() < 0.2 and left[1 - index] >= 2:
                slices.append((2, 1 - index))
            if size > left[index] or milli > cpu:
                continue
            for gb, on in slices:
                left[on] -= gb
            cpu -= milli
            crowd.run(
                f"n{node}-{number}",
                node,
                *slices,
                priority=dice.choice((0, 0, 1, 2, 5, SYSTEM)),
                requests=Resources(milli),
                labels={"budget": "b"} if dice.random() < 0.3 else {},
                group="g" if dice.random() < 0.2 else "",
                min_member=dice.choice((1, 2)),
                terminating=dice.random() < 0.1,
            )
    sizes = [dice.choice(_SIZES[2:])] + [3] * (dice.random() < 0.2)
    wants = Resources(dice.choice((0, 1_000, 4_000)))
    wanting = crowd.wait("wanting", *sizes, priority=dice.choice((1, 3, 9)), requests=wants)
    return crowd, wanting


def cost_of(victims: Sequence[Pod]) -> Cost:
    gb: Counter[int] = Counter()
    for victim in victims:
        gb[victim.priority] += sum(victim.seats)
    ages = sum(-int(datetime.fromisoformat(pod.created).timestamp()) for pod in victims)
    return tuple(gb[priority] for priority in (5, 2, 1, 0)), len(victims), ages


def may_go(crowd: Crowd, victims: Sequence[Pod]) -> bool:
    """Whether budget and group allow it."""
    if sum("budget" in pod.labels for pod in victims) > crowd.budgets["b"]:
        return False
    members = [pod for pod in crowd.world.pods.values() if pod.group]
    left = [pod for pod in members if not pod.terminating and pod not in victims]
    minimum = max((pod.min_member or 0 for pod in members), default=0)
    return not any(pod.group for pod in victims) or len(left) >= minimum


def fits(crowd: Crowd, pod: Pod, node: int, victims: Sequence[Pod]) -> bool:
    """Whether the pod fits on the node once those that end and the victims have ended."""
    name = f"n{node}"
    stay = {
        other.key: other
        for other in crowd.world.pods.values()
        if other.node == name and not other.terminating and other not in victims
    }
    if crowd.cpu - sum(p.requests.cpu_milli for p in stay.values()) < pod.requests.cpu_milli:
        return False
    agent = crowd.world.agents[name]
    rooms = [
        capacity - sum(s.size for s in gpu if s.pod in stay)
        for capacity, gpu in zip(agent.capacities, agent.gpus, strict=True)
    ]
    for seats in product(range(len(rooms)), repeat=len(pod.seats)):
        wanted = Counter[int]()
        for size, index in zip(pod.seats, seats, strict=True):
            wanted[index] += size
        if all(gb <= rooms[index] for index, gb in wanted.items()):
            return True
    return False


def choices(crowd: Crowd, pod: Pod) -> Iterator[tuple[Cost, int, tuple[Pod, ...]]]:
    """Every choice of victims after which the pod fits."""
    for node in range(len(crowd.gpus)):
        able = [
            other
            for other in crowd.world.pods.values()
            if other.node == f"n{node}"
            and not other.terminating
            and other.priority < min(pod.priority, SYSTEM)
        ]
        for number in range(len(able) + 1):
            for victims in combinations(able, number):
                if may_go(crowd, victims) and fits(crowd, pod, node, victims):
                    yield cost_of(victims), node, victims


@pytest.mark.parametrize("first", range(0, _SEEDS, _AT_ONCE))
def test_as_little_is_evicted_as_makes_room(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        crowd, pod = crowd_of(random.Random(seed))
        said = f"seed {seed}: "
        plan = crowd.decide().plan
        least = min(choices(crowd, pod), default=None)
        if any(placement.pod.uid == pod.uid for placement in plan.placements):
            assert not plan.preemptions, said
            assert least is not None, said
            assert least[0] == cost_of(()), said
        elif not plan.preemptions:
            assert least is None or least[0] == cost_of(()), said + f"not seen: {least}"
        else:
            (preemption,) = plan.preemptions
            victims = preemption.victims
            assert least is not None, said
            assert may_go(crowd, victims), said + "a budget or a group is broken"
            assert fits(crowd, pod, int(preemption.node[1:]), victims), said + "it does not fit"
            assert cost_of(victims) == least[0], said + f"{[v.name for v in victims]}: {least}"


def test_the_clusters_are_of_every_kind() -> None:
    kinds = Counter[str]()
    for seed in range(300):
        crowd, _ = crowd_of(random.Random(seed))
        plan = crowd.decide().plan
        if plan.placements:
            kinds["fits"] += 1
        elif not plan.preemptions:
            kinds["nobody can be evicted"] += 1
        else:
            kinds[f"{min(3, len(plan.preemptions[0].victims))} victims"] += 1
    assert min(kinds.values()) >= 5, kinds
    assert set(kinds) == {
        "fits",
        "nobody can be evicted",
        "0 victims",
        "1 victims",
        "2 victims",
        "3 victims",
    }
