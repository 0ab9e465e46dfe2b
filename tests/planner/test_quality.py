"""How good plans are, on instances whose optimum is proved; the benchmark has all of them."""

import statistics
from itertools import islice

import pytest

from benchmarks.packing_gaps import share_of
from benchmarks.packing_optima import SEEDS, kept
from benchmarks.packing_optimum import proved
from benchmarks.packing_small import fingerprint, gb_by_priority, small_instances
from planner.packing import plan
from tests.planner.checker import violations


@pytest.mark.parametrize(("solver", "least"), [(False, 98.5), (True, 99.8)])
def test_plans_of_small_instances_are_near_the_optimum(solver: bool, least: float) -> None:
    known = kept()
    shares = []
    for instance in islice(small_instances(SEEDS), 20):
        made = plan(instance.snapshot, instance.pods, solver=solver)
        assert violations(instance.snapshot, instance.pods, made) == []
        placed = gb_by_priority(instance, [placement.pod for placement in made.placements])
        best = known[instance.name].gb
        assert placed <= best
        shares.append(share_of(placed, best))
    assert statistics.fmean(shares) >= least


def test_optima_that_are_kept_are_those_of_the_instances() -> None:
    known = kept()
    instances = list(small_instances(SEEDS))
    assert {each.name: fingerprint(each) for each in instances} == {
        name: optimum.fingerprint for name, optimum in known.items()
    }
    for instance in instances[:3]:
        assert proved(instance, seconds=60) == known[instance.name].gb
