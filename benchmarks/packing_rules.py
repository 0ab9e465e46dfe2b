"""Rows: rules that every plan keeps, each held against a plain check of its own.

Older first among equals; of plans that place as much the one that changes least, beside a search
through all of them; and what the solver may take where it has to solve for many priorities.
"""

import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Final

from benchmarks.packing_planner import OURS, planned
from benchmarks.packing_report import Row
from benchmarks.packing_worlds import Recipe, world
from planner.model.constraints import Resources
from planner.model.plan import Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import budget
from planner.state.snapshot import build_snapshot
from tests.planner import test_fairness as fairness
from tests.planner import test_least_change as least_change

_SECTION: Final = "rules, each held against a plain check"
_AGES: Final = 10_000
_CHANGES: Final = 1_000
_PRIORITIES: Final = 20
_GPUS: Final = (200, 1_000)
_SECONDS: Final = 3.0  # of the wall clock, with the solver


def rule_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """The first seed is used for the clusters of many priorities."""
    if False in solvers:
        yield from _random_rows()
    if True in solvers:
        yield from _priority_rows(seeds[0])


def _random_rows() -> Iterator[Row]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        passed = sum(pool.map(passed_over, range(_AGES), chunksize=50))
        outcomes = list(pool.map(least_change.outcome, range(_CHANGES), chunksize=20))
    name = f"{_AGES:,} random instances: pods that a younger equal was preferred to"
    yield Row(_SECTION, name, OURS[False], passed, "").at_most(0)
    name = f"{_CHANGES:,} random small instances: "
    optimal = 100 * sum(best for best, _, _ in outcomes) / _CHANGES
    yield Row(_SECTION, name + "least change", OURS[False], optimal, "%").at_least(95)
    changed, least = (sum(each[part] for each in outcomes) for part in (1, 2))
    excess = 100 * (changed / least - 1)
    yield Row(_SECTION, name + "changes beyond the least", OURS[False], excess, "%").at_most(1)


def passed_over(seed: int) -> int:
    """How many pods wait in a small contended cluster while a younger equal has their place."""
    snapshot, pods = fairness.many_alike(seed)
    return len(list(fairness.inversions(snapshot, planned(snapshot, pods, solver=False))))


def of_many_priorities(gpus: int, seed: int) -> tuple[Snapshot, list[Pod]]:
    """More than fits, of twenty priorities, and few kinds, so that the solver is asked."""
    given = world(Recipe(gpus, gpus, 0.5), seed)
    dice = random.Random(seed)
    asks = Resources(cpu_milli=1_000)
    pods = [
        replace(pod, priority=dice.randrange(_PRIORITIES), requests=asks) for pod in given.pending
    ]
    return build_snapshot(given.nodes, given.layouts, (*given.pods, *pods)), pods


def _priority_rows(seed: int) -> Iterator[Row]:
    ended, different = 0, 0
    for gpus in _GPUS:
        snapshot, pods = of_many_priorities(gpus, seed)
        without = planned(snapshot, pods, solver=False)
        started = time.perf_counter()
        made = planned(snapshot, pods, solver=True)
        seconds = time.perf_counter() - started
        ended += made.fell_back
        different += made.fell_back and not _is_same(made, without)
        name = f"{gpus:,} GPUs, as many pods of {_PRIORITIES} priorities, wall clock"
        more = {"ended by the watch": int(made.fell_back), "load": os.getloadavg()[0]}
        yield Row(_SECTION, name, OURS[True], seconds, "s", more=more).at_most(_SECONDS)
        watch = budget.SOLVER_SECONDS
        budget.SOLVER_SECONDS = 0.01  # type: ignore[misc]  # so that the watch ends it for sure
        try:
            made = planned(snapshot, pods, solver=True)
        finally:
            budget.SOLVER_SECONDS = watch  # type: ignore[misc]
        ended += made.fell_back
        different += made.fell_back and not _is_same(made, without)
    name = f"of {ended} plans that the watch ended, those unlike the plan without"
    yield Row(_SECTION, name, OURS[True], different, "").at_most(0)


def _is_same(made: Plan, without: Plan) -> bool:
    """Byte for byte, but for saying that the solver was too late."""
    return repr(replace(made, fell_back=False)) == repr(without)
