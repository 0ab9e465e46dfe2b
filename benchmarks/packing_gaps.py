"""Rows: how far a plan is from the optimum of small instances, class by class."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks.packing_baselines import fifo_best_fit
from benchmarks.packing_optima import kept, optimum_of
from benchmarks.packing_planner import OURS, planned
from benchmarks.packing_report import Row
from benchmarks.packing_small import SmallInstance, gb_by_priority, small_instances
from planner.model.pods import Pod
from tests.planner.checker import violations

_SECTION: Final = "small instances: GB per priority class, of the optimum"
_MEAN: Final = {False: 99.4, True: 99.99}
_OPTIMAL: Final = {False: 75.0, True: 100.0}  # of a hundred

Packer = Callable[[SmallInstance], Sequence[Pod]]


def share_of(placed: Sequence[int], best: Sequence[int]) -> float:
    """The percentage of the optimum that is reached, where more of a lower class makes up for
    nothing: of each class at most its optimum counts.
    """
    total = sum(best)
    return 100 * sum(map(min, placed, best)) / total if total else 100.0


def gap_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """Mean and share of optimal plans over the 200 instances; FIFO best fit to compare with."""
    known = kept()
    instances = list(small_instances(seeds))
    optima = [optimum_of(each, known) for each in instances]
    proofs = sum(optimum.cp_sat for optimum in optima)
    best = [optimum.gb for optimum in optima]

    def rows(packer: str, pack: Packer) -> tuple[Row, Row]:
        started = time.process_time()
        found = [gb_by_priority(each, pack(each)) for each in instances]
        seconds = (time.process_time() - started) / len(instances)
        shares = [share_of(gb, top) for gb, top in zip(found, best, strict=True)]
        optimal = 100 * sum(gb == top for gb, top in zip(found, best, strict=True)) / len(best)
        higher = sum(gb > top for gb, top in zip(found, best, strict=True))
        if higher:
            raise SystemExit(f"{packer} is above the optimum in {higher} instances")
        more = {"worst %": min(shares), "ms each": seconds * 1000}
        name = f"{len(instances)} instances, {proofs} proved by CP-SAT too"
        mean = Row(_SECTION, name, packer, statistics.fmean(shares), "%", more=more)
        return mean, Row(_SECTION, "of them solved to the optimum", packer, optimal, "%")

    yield from rows("FIFO best fit", lambda each: _by_priority(each, fifo_best_fit))
    for solver in solvers:
        mean, optimal = rows(OURS[solver], lambda each, solver=solver: _ours(each, solver))  # type: ignore[misc]
        yield mean.at_least(_MEAN[solver])
        yield optimal.at_least(_OPTIMAL[solver])


def _by_priority(each: SmallInstance, pack: Callable[..., list[Pod]]) -> list[Pod]:
    order = sorted(each.pods, key=lambda pod: -pod.priority)  # stable: the older first
    return pack(each.snapshot, order)


def _ours(each: SmallInstance, solver: bool) -> list[Pod]:
    made = planned(each.snapshot, each.pods, solver=solver)
    wrong = violations(each.snapshot, each.pods, made)
    if wrong:
        raise SystemExit(f"{each.name}: {wrong[0]}")
    return [placement.pod for placement in made.placements]
