"""What comes after greedy: who is fitted in, who is not moved for it, groups and reservations."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from planner.model.constraints import Resources
from planner.model.plan import Cause, Plan
from planner.model.pods import GATE, Group, Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.packing.solver.program import Program
from tests.planner.test_packing import gb, node, on, pod, where

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def gated(name: str, *sizes: int, **fields: object) -> Pod:
    return pod(name, *sizes, gates=(GATE,), **fields)


def placed_gb(made: Plan) -> int:
    return sum(sum(placement.pod.seats) for placement in made.placements)


def test_two_pods_that_fill_a_gpu_go_before_an_older_one_that_wastes_it() -> None:
    pods = [
        gated("old", 50, created="2026-01-01T00:00:01Z"),
        gated("b", 40, created="2026-01-01T00:00:02Z"),
        gated("c", 40, created="2026-01-01T00:00:03Z"),
    ]
    assert where(plan(Snapshot((node("n1", 80),)), pods)) == {"b": "n1", "c": "n1"}


def test_a_lower_priority_wins_nothing_by_filling_a_gpu_better() -> None:
    pods = [gated("high", 50, priority=10), gated("b", 40), gated("c", 40)]
    assert where(plan(Snapshot((node("n1", 80),)), pods)) == {"high": "n1"}


def test_light_pods_go_where_cpu_is_short() -> None:
    nodes = (
        node("poor", 40, 40, idle=Resources(cpu_milli=2_000, memory=1 << 38)),
        node("rich", 40, 40, idle=Resources(cpu_milli=40_000, memory=1 << 38)),
    )
    light = [gated(f"light{n}", 40, requests=Resources(cpu_milli=1_000)) for n in range(2)]
    heavy = [gated(f"heavy{n}", 40, requests=Resources(cpu_milli=20_000)) for n in range(2)]
    made = plan(Snapshot(nodes), [*light, *heavy])
    assert len(made.placements) == 4


def test_a_pod_without_its_gate_keeps_the_slice_that_stands_for_it() -> None:
    nodes = (node("n1", 80, free={0: gb({50: 1})}),)
    bare = pod("bare", 50, created="2026-01-01T00:00:01Z")
    made = plan(Snapshot(nodes), [bare, gated("b", 40), gated("c", 40)])
    assert where(made) == {"bare": "n1"}
    assert made.layouts == {}


def test_a_search_that_gains_nothing_moves_nobody() -> None:
    pods = [gated(name, 50, created=f"2026-01-01T00:00:0{n}Z") for n, name in enumerate("abc")]
    made = plan(Snapshot((node("n1", 80), node("n2", 80))), pods)
    assert where(made) == {"a": "n1", "b": "n2"}


def test_of_like_pods_the_older_are_placed() -> None:
    ages = {name: f"2026-01-01T00:00:{n:02}Z" for n, name in enumerate("abcdef")}
    pods = [gated(name, 30, created=at) for name, at in ages.items()]
    made = plan(Snapshot((node("n1", 80), node("n2", 50))), [*pods, gated("g", 50)])
    assert [name for name in where(made) if name != "g"] == ["a", "b"]


@pytest.mark.parametrize("solver", [False, True])
def test_plan_does_not_depend_on_the_order_of_its_input(solver: bool) -> None:
    nodes = [node(f"n{n}", 24 + n, 40 + n) for n in range(5)]
    pods = [gated(f"p{n}", 7 + n % 5 * 6, priority=n % 2) for n in range(30)]
    made = plan(Snapshot(tuple(nodes)), pods, solver=solver)
    again = plan(Snapshot(tuple(reversed(nodes))), pods[::-1], solver=solver)
    assert again == made
    assert made.refusals


def test_solver_places_at_least_as_much() -> None:
    nodes = (node("n1", 40, 32), node("n2", 24))
    pods = [gated(f"p{n}", size) for n, size in enumerate([21, 19, 17, 15, 13, 11, 9] * 2)]
    without = plan(Snapshot(nodes), pods)
    made = plan(Snapshot(nodes), pods, solver=True)
    assert placed_gb(without) <= placed_gb(made) == 40 + 32 + 24
    assert not made.fell_back


def test_a_solver_that_is_too_late_changes_nothing_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("planner.packing.budget.SOLVER_SECONDS", 0.0)
    nodes = tuple(node(f"n{n}", 80, 64, 48) for n in range(4))
    pods = [gated(f"p{n}", size, priority=n % 3) for n, size in enumerate([41, 37, 31, 29, 23] * 8)]
    made = plan(Snapshot(nodes), pods, solver=True)
    assert made == replace(plan(Snapshot(nodes), pods), fell_back=True)


def test_program_without_a_solution_is_told_apart_from_one_that_takes_too_long() -> None:
    program = Program()
    program.column(1.0, 1.0, [(program.row(2.0, 2.0), 1.0)], whole=True)  # at most 1 is to be 2
    assert program.solve(nodes=100, gap=0.0, seconds=60.0) is None


def test_plan_whose_program_has_no_solution_does_not_say_that_it_was_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Program, "solve", lambda *_arguments, **_options: None)
    nodes = tuple(node(f"n{n}", 80, 64, 48) for n in range(4))
    pods = [gated(f"p{n}", size) for n, size in enumerate([41, 37, 31, 29, 23] * 8)]
    made = plan(Snapshot(nodes), pods, solver=True)
    assert not made.fell_back
    assert placed_gb(made) >= placed_gb(plan(Snapshot(nodes), pods))


def test_one_node_is_written_rather_than_two() -> None:
    nodes = (node("n1", 20, 80), node("n2", 40))
    pods = [gated("a", 40), gated("b", 20), gated("c", 38)]
    assert list(plan(Snapshot(nodes), pods).layouts) == ["n1"]


def member(name: str, size: int, **fields: object) -> Pod:
    return gated(name, size, group="g", **fields)


def test_group_is_placed_whole_or_not_at_all() -> None:
    nodes = (node("n1", 80),)
    three = [member(name, 30) for name in "abc"]
    made = plan(Snapshot(nodes), [*three, gated("lone", 10)])
    assert where(made) == {"lone": "n1"}
    assert {refusal.own for refusal in made.refusals} == {Cause.GROUP}
    assert made.layouts == {"n1": {"n1-0": gb({10: 1})}}


def test_minimum_of_a_group_suffices_and_bound_members_count() -> None:
    groups = {"default/g": Group(minimum=3, bound=1)}
    pods = [member(name, 30) for name in "abc"]
    made = plan(Snapshot((node("n1", 80),), groups=groups), pods)
    assert len(made.placements) == 2


def test_group_with_too_few_pods_says_how_many_are_missing() -> None:
    groups = {"default/g": Group(minimum=5)}
    made = plan(Snapshot((node("n1", 80),), groups=groups), [member("a", 10), member("b", 10)])
    assert made.placements == ()
    assert made.refusals[0].note == "group g has 2 of 5 pods; create 3 more"


def aged(name: str, size: int, minutes: int, **fields: object) -> Pod:
    created = NOW.replace(hour=11, minute=60 - minutes).strftime("%Y-%m-%dT%H:%M:%SZ")
    return gated(name, size, created=created, **fields)


def test_memory_that_comes_free_goes_to_nobody_younger_than_who_waits_longest() -> None:
    nodes = (node("n1", 80, used={0: gb({50: 1})}), node("n2", 80, used={0: gb({70: 1})}))
    pods = [aged("large", 60, 6), aged("small", 20, 1), aged("tiny", 10, 1)]
    made = plan(Snapshot(nodes, now=NOW), pods)
    assert where(made) == {"tiny": "n2"}
    assert [(each.pod.name, each.node) for each in made.reservations] == [("large", "n1")]
    assert {r.pod.name: r.own for r in made.refusals}["small"] is Cause.RESERVED


def reserved_for(minutes: int, **fields: Any) -> list[str]:
    """Who has a reservation where a pod of that age and a younger one do not both fit."""
    nodes = (node("n1", 80, used={0: gb({50: 1})}),)
    pods = [replace(aged("large", 60, minutes), **fields), aged("small", 20, 1)]
    made = plan(Snapshot(nodes, now=NOW, reserving=STARTS), pods)
    assert where(made) == ({} if made.reservations else {"small": "n1"})
    return [each.pod.name for each in made.reservations]


STARTS = {"begun": NOW - timedelta(minutes=14), "spent": NOW - timedelta(minutes=15)}


def test_reservation_begins_after_five_minutes_and_lasts_fifteen_from_its_own_start() -> None:
    assert reserved_for(4) == []
    assert reserved_for(21) == ["large"], "it has not had its turn yet"
    assert reserved_for(40, uid="begun") == ["large"]
    assert reserved_for(40, uid="spent") == []


def test_waiting_for_other_gates_does_not_count() -> None:
    lately = NOW.replace(hour=11, minute=57).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert reserved_for(40, since=lately) == []


def test_who_has_waited_long_goes_before_its_peers() -> None:
    nodes = (node("n1", 80),)
    pods = [aged("young", 80, 4), aged("old", 50, 6)]
    assert where(plan(Snapshot(nodes, now=NOW), pods)) == {"old": "n1"}
    assert where(plan(Snapshot(nodes), pods)) == {"young": "n1"}


def test_higher_priority_is_not_held_up_by_a_reservation() -> None:
    nodes = (node("n1", 80, used={0: gb({50: 1})}),)
    urgent = replace(aged("urgent", 30, 1), priority=10)
    made = plan(Snapshot(nodes, now=NOW), [aged("large", 60, 6), urgent])
    assert where(made) == {"urgent": "n1"}


def test_a_pod_gives_its_standing_slice_to_one_that_can_use_no_other() -> None:
    nodes = (node("n1", 20, free={0: gb({20: 1})}), node("n2", 20, free={0: gb({20: 1})}))
    pods = [gated("anywhere", 20), gated("picky", 20, constraints=on("n1"))]
    made = plan(Snapshot(nodes), pods)
    assert where(made) == {"anywhere": "n2", "picky": "n1"}
    assert made.layouts == {}


def test_a_node_where_a_pod_was_placed_in_vain_is_avoided() -> None:
    made = plan(
        Snapshot((node("n1", 20), node("n2", 80))), [gated("p", 20, avoid=frozenset({"n1"}))]
    )
    assert where(made) == {"p": "n2"}


def test_pod_goes_to_an_idle_node_too_small_for_the_one_that_waits() -> None:
    nodes = (
        node("n1", 40, idle=Resources(cpu_milli=4_000, memory=1 << 38)),
        node("n2", 40, idle=Resources(cpu_milli=2_000, memory=1 << 38)),
    )
    first, light, heavy = (
        pod(name, size, created=f"2026-01-01T00:00:0{turn}Z", requests=Resources(cpu_milli=cpu))
        for turn, (name, size, cpu) in enumerate(
            [("first", 5, 0), ("light", 10, 500), ("heavy", 10, 3_800)]
        )
    )
    nodes_of = where(plan(Snapshot(nodes), [first, light, heavy]))
    assert nodes_of["heavy"] == "n1"
    assert nodes_of["light"] == "n2"
