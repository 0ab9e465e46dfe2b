"""The packing benchmark's own parts: instances, bound and the packers that it compares with."""

import random
import statistics

import pytest

from benchmarks.packing_baselines import BASELINES
from benchmarks.packing_bound import lp_bound
from benchmarks.packing_instances import Ask as Asked
from benchmarks.packing_instances import (
    Machine,
    arrivals,
    asked_gb,
    asks,
    capacity_gb,
    case,
    empty_cluster,
    openb_fleet,
    plain_pod,
    pod_of,
)
from benchmarks.packing_report import Row
from benchmarks.packing_worlds import Recipe, world
from planner.state.snapshot import build_snapshot


def test_generated_fleet_and_pods_are_distributed_as_the_trace_is() -> None:
    fleet, drawn = openb_fleet(None), asks(None)
    assert (len(fleet), sum(machine.gpus for machine in fleet)) == (1213, 6212)
    assert sum(machine.gpus * machine.gb for machine in fleet) == 117_552
    assert len(drawn) == pytest.approx(7064, abs=5)
    assert statistics.fmean(ask.cpu_milli for ask in drawn) == pytest.approx(6000, rel=0.02)
    gib = statistics.fmean(ask.memory_mib for ask in drawn) / 1024
    assert gib == pytest.approx(20.8, rel=0.02)


def test_pods_come_until_they_ask_for_the_load() -> None:
    pods = arrivals(asks(None), 80, 1000, random.Random(42))
    assert asked_gb(pods) >= 1000 > asked_gb(pods[:-1])
    assert [pod.created for pod in pods] == sorted(pod.created for pod in pods)


def test_bound_counts_that_slices_do_not_fill_a_gpu() -> None:
    cluster = case(nodes=2, gpus=1, gb=10)
    assert lp_bound(cluster, [plain_pod(6, number) for number in range(9)]) == pytest.approx(12)
    assert lp_bound(cluster, [plain_pod(6, 0), plain_pod(4, 1)]) == pytest.approx(10)


def test_bound_counts_cpu_of_each_kind_of_node() -> None:
    poor, rich = Machine(1000, 1024, 1, 10), Machine(9000, 1024, 1, 5)
    cluster = empty_cluster([poor, rich])
    hungry = [pod_of(Asked(5, 2000, 1), 1000, number) for number in range(4)]
    assert lp_bound(cluster, hungry) == pytest.approx(5)


@pytest.mark.parametrize(
    ("packer", "placed"),
    [
        ("smallest-first first fit", [3, 3, 4, 5]),
        ("best-fit decreasing", [7, 5, 4, 3]),
        ("FIFO best fit", [3, 7, 5, 4]),
        ("FGD", [3, 7, 5, 4]),
    ],
)
def test_each_packer_has_its_order(packer: str, placed: list[int]) -> None:
    cluster = case(nodes=2, gpus=1, gb=10)
    pods = [plain_pod(size, number) for number, size in enumerate((3, 7, 5, 4, 3))]
    assert [pod.seats[0] for pod in BASELINES[packer](cluster, pods)] == placed


@pytest.mark.parametrize("packer", BASELINES)
def test_no_packer_overfills_a_node(packer: str) -> None:
    cluster = empty_cluster([Machine(4000, 1024, 2, 10)])
    pods = [pod_of(Asked(2, 1500, 100), 1000, number) for number in range(9)]
    assert len(BASELINES[packer](cluster, pods)) == 2


def test_world_holds_what_its_recipe_says_and_contradicts_itself_nowhere() -> None:
    made = world(Recipe(gpus=80, pending=10, used=0.5, starved=True), seed=42)
    snapshot = build_snapshot(made.nodes, made.layouts, (*made.pods, *made.pending))
    assert snapshot.set_aside == {}
    used = sum(size * n for s in snapshot.nodes for gpu in s.gpus for size, n in gpu.used.items())
    assert used == pytest.approx(0.5 * capacity_gb(snapshot), rel=0.1)
    assert sum(state.idle.cpu_milli == 0 for state in snapshot.nodes) == 5


def test_figure_is_held_against_its_demand() -> None:
    row = Row("s", "i", "p", 99.5, "%")
    assert (row.at_least(99.5).met, row.at_least(99.6).met, row.at_most(99).met) == (
        True,
        False,
        False,
    )
    assert row.at_least(99.6).demand == "≥ 99.60 %"
