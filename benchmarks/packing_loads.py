"""Rows: how much of what could be placed is placed, for each fleet and load, and in batches."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.packing_baselines import BASELINES
from benchmarks.packing_bound import lp_bound
from benchmarks.packing_instances import (
    FLEETS,
    LOADS,
    Instance,
    asked_gb,
    case,
    instance,
    plain_pod,
)
from benchmarks.packing_planner import OURS, in_batches, planned
from benchmarks.packing_report import Row, mean_row
from planner.model.pods import Pod
from tests.planner.checker import violations

_SECTION: Final = "GB placed, of the LP bound"
_BATCHES: Final = "load 0.8 in batches of 100: node writes"
_NOS: Final = "cases that nos gets wrong"
_WITH_SOLVER: Final = {
    "hom80": {0.8: 100.0, 0.9: 99.9, 1.0: 99.9, 1.3: 99.9},
    "openb": {0.8: 100.0, 0.9: 99.5, 1.0: 97.5, 1.3: 98.5},
}
_REFERENCE: Final = "FIFO best fit"


@dataclass(frozen=True, slots=True)
class _Result:
    """Our plan for one instance."""

    placed: Sequence[Pod]
    seconds: float
    written: int
    withdrawn: int


def load_rows(fleet: str, seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """Every packer on a fleet, load by load."""
    for load in LOADS:
        instances = [instance(fleet, load, seed) for seed in seeds]
        bounds = [lp_bound(each.snapshot, each.pods) for each in instances]
        name = f"{fleet}, load {load:g}"
        figures: dict[str, float] = {}
        for packer, pack in BASELINES.items():
            placed = [pack(each.snapshot, each.pods) for each in instances]
            row = mean_row(_SECTION, name, packer, "%", _percent(placed, bounds))
            figures[packer] = row.figure
            yield row
        for solver in solvers:
            results = [_planned(each, solver=solver) for each in instances]
            percent = _percent([result.placed for result in results], bounds)
            row = mean_row(_SECTION, name, OURS[solver], "%", percent, _besides(results, instances))
            # Half of the reference's gap to the bound, where there is no solver to close it.
            half = (figures[_REFERENCE] + 100) / 2 if load > 0.8 else 100.0
            yield row.at_least(_WITH_SOLVER[fleet][load] if solver else half)


def _percent(placed: Sequence[Sequence[Pod]], bounds: Sequence[float]) -> list[float]:
    return [100 * asked_gb(pods) / bound for pods, bound in zip(placed, bounds, strict=True)]


def _besides(results: Sequence[_Result], instances: Sequence[Instance]) -> dict[str, float]:
    pods = [
        100 * len(result.placed) / len(each.pods)
        for result, each in zip(results, instances, strict=True)
    ]
    return {
        "pods %": statistics.fmean(pods),
        "nodes written": statistics.fmean(result.written for result in results),
        "withdrawn": max(result.withdrawn for result in results),
        "CPU s": statistics.fmean(result.seconds for result in results),
    }


def _planned(each: Instance, *, solver: bool) -> _Result:
    started = time.process_time()
    made = planned(each.snapshot, each.pods, solver=solver)
    seconds = time.process_time() - started
    wrong = violations(each.snapshot, each.pods, made)
    if wrong:
        raise SystemExit(f"{each.fleet}, load {each.load}, seed {each.seed}: {wrong[0]}")
    placed = [placement.pod for placement in made.placements]
    return _Result(placed, seconds, len(made.layouts), made.withdrawn)


def batch_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """Load 0.8 of each fleet as it would arrive; the number of writes is promised for hom80."""
    for fleet in FLEETS:
        instances = [instance(fleet, 0.8, seed) for seed in seeds]
        for solver in solvers:
            results = [in_batches(i.snapshot, i.pods, 100, solver=solver) for i in instances]
            writes = mean_row(
                _BATCHES,
                fleet,
                OURS[solver],
                "",
                [result.node_writes for result in results],
                {"nodes": len(instances[0].snapshot.nodes), "nos, hom80": 1966},
            )
            yield writes.at_most(200) if fleet == "hom80" else writes
            for what, most in (("unplaced", "pods"), ("withdrawn", "slices")):
                values = [getattr(result, what) for result in results]
                yield mean_row(_BATCHES, f"{fleet}: {what}", OURS[solver], most, values).at_most(0)


def nos_rows(solvers: Sequence[bool]) -> Iterator[Row]:
    """Two small cases; nos carves six nodes for the first, and no 40gb and 80gb in the second."""
    for solver in solvers:
        five = [plain_pod(10, number) for number in range(5)]
        cluster = case(nodes=6, gpus=1, gb=40)
        made = planned(cluster, five, solver=solver)
        row = Row(
            _NOS,
            "five 10gb pods, six 40 GB nodes: nodes carved",
            OURS[solver],
            len(made.layouts),
            "",
            more={"unplaced": len(made.refusals)},
        )
        yield row.at_most(2)
        many = [plain_pod((5, 10, 20, 40, 80)[n % 5], n) for n in range(500)]
        made = planned(case(nodes=100, gpus=8, gb=80), many, solver=solver)
        row = Row(
            _NOS,
            "100 each of 5, 10, 20, 40, 80gb on 800 GPUs: unplaced",
            OURS[solver],
            len(made.refusals),
            "pods",
            more={"nodes carved": len(made.layouts)},
        )
        yield row.at_most(0)
