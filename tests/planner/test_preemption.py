"""Preemption across sizes: who is evicted for whom, and what is done until then."""

from datetime import timedelta
from typing import Any

import pytest

from planner.model.constraints import Expression, PodTerm, Relations, Resources
from planner.packing.budget import Budget
from planner.packing.victims import Offer, cheapest
from planner.progress.course import ENDING
from planner.progress.machine import Phase
from planner.progress.note import read_note
from planner.state.preemptible import SYSTEM, parse_budget
from planner.words.condition import AVAILABLE
from planner.writes.actions import Evict, Inform, Ungate
from tests.planner.crowded import Crowd
from tests.planner.lives.test_cases import a_life, bound, come, end, rest


def two_of_eight() -> Crowd:
    crowd = Crowd(((16,),))
    crowd.run("a", 0, (8, 0))
    crowd.run("b", 0, (8, 0))
    return crowd


def test_pod_takes_the_place_of_two_smaller_ones() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5)
    assert crowd.preempted() == {"high": ["a", "b"]}


def test_nobody_is_evicted_while_preemption_is_off() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5)
    decision = crowd.decide(preemption=False)
    assert decision.plan.preemptions == ()
    assert [type(action) for action in decision.actions] == [Ungate]


@pytest.mark.parametrize(
    "of",
    [{"priority": 0}, {"priority": 5, "preempts": False}],
    ids=["equal priority", "preemptionPolicy Never"],
)
def test_pod_that_may_not_preempt_does_not(of: dict[str, Any]) -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, **of)
    assert crowd.preempted() == {}


def test_nobody_is_evicted_for_a_pod_that_would_not_fit_after_it() -> None:
    crowd = Crowd(((16,),))
    crowd.run("a", 0, (8, 0))
    crowd.run("equal", 0, (8, 0), priority=5)
    crowd.wait("high", 10, priority=5)
    assert crowd.preempted() == {}


def test_nobody_is_evicted_for_a_pod_whose_cpu_nobody_can_free() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5, requests=Resources(65_000))
    assert crowd.preempted() == {}


def test_pods_are_evicted_for_cpu_as_well_as_for_memory() -> None:
    crowd = Crowd(((16, 40),), cpu=8_000)
    crowd.run("small", 0, (8, 0), requests=Resources(1_000))
    crowd.run("hungry", 0, (8, 1), requests=Resources(6_000))
    crowd.wait("high", 10, priority=5, requests=Resources(7_000))
    assert crowd.preempted() == {"high": ["hungry"]}


def test_fewest_gb_of_the_highest_priority_are_evicted() -> None:
    crowd = Crowd(((16,), (16,), (16,)))
    crowd.run("middle", 0, (10, 0), priority=3)
    crowd.run("low-1", 1, (8, 0))
    crowd.run("low-2", 1, (8, 0))
    crowd.run("mixed", 2, (8, 0), priority=1)
    crowd.run("mixed-low", 2, (8, 0))
    crowd.wait("high", 16, priority=5)
    assert crowd.preempted() == {"high": ["low-1", "low-2"]}


def test_of_equal_gb_fewer_pods_are_evicted_and_of_as_many_the_youngest() -> None:
    crowd = Crowd(((16,), (16,), (16,)))
    crowd.run("older", 0, (16, 0))
    crowd.run("younger", 1, (16, 0))
    crowd.run("half-1", 2, (8, 0))
    crowd.run("half-2", 2, (8, 0))
    crowd.wait("high", 12, priority=5)
    assert crowd.preempted() == {"high": ["younger"]}


def test_room_that_is_free_is_used_so_that_less_is_evicted() -> None:
    crowd = Crowd(((24,), (16,)))
    crowd.run("a", 0, (8, 0))
    crowd.run("b", 0, (12, 0))
    crowd.run("c", 1, (16, 0))
    crowd.wait("high", 12, priority=5)
    assert crowd.preempted() == {"high": ["a"]}


def test_pods_that_end_anyway_count_as_gone() -> None:
    crowd = two_of_eight()
    crowd.change("a", terminating=True)
    crowd.wait("high", 8, priority=5)
    (preemption,) = crowd.decide().plan.preemptions
    assert preemption.victims == ()
    assert [pod.name for pod in preemption.ending] == ["a"]


def test_system_pods_are_never_evicted() -> None:
    crowd = Crowd(((16,),))
    crowd.run("system", 0, (16, 0), priority=SYSTEM)
    crowd.wait("node-critical", 10, priority=SYSTEM + 1000)
    assert crowd.preempted() == {}


def test_disruption_budget_is_kept() -> None:
    crowd = Crowd(((16,), (16,)), budgets={"web": 1})
    for name in ("web-1", "web-2"):
        crowd.run(name, 0, (8, 0), labels={"budget": "web"})
    crowd.run("old", 1, (16, 0), priority=3)
    crowd.wait("high", 10, priority=5)
    assert crowd.preempted() == {"high": ["old"]}


def test_one_budget_is_spent_by_all_pods_that_preempt() -> None:
    crowd = Crowd(((16,), (16,)), budgets={"web": 1})
    crowd.run("web-1", 0, (16, 0), labels={"budget": "web"})
    crowd.run("web-2", 1, (16, 0), labels={"budget": "web"})
    crowd.wait("first", 10, priority=5)
    crowd.wait("second", 10, priority=5)
    assert crowd.preempted() == {"first": ["web-2"]}


def test_group_keeps_its_minimum() -> None:
    crowd = Crowd(((24,),))
    for number in range(3):
        crowd.run(f"m{number}", 0, (8, 0), group="g", min_member=2)
    crowd.wait("first", 6, priority=5)
    crowd.wait("second", 6, priority=5)
    assert crowd.preempted() == {"first": ["m2"]}


def test_group_without_a_minimum_is_kept_whole() -> None:
    crowd = Crowd(((16,),))
    crowd.run("m1", 0, (8, 0), group="g")
    crowd.run("m2", 0, (8, 0), group="g")
    crowd.wait("high", 10, priority=5)
    assert crowd.preempted() == {}


def test_pod_that_another_wants_to_be_near_stays() -> None:
    near = PodTerm("host", (Expression("app", "In", ("data",)),), frozenset({"default"}))
    crowd = Crowd(((16,),))
    crowd.run("data", 0, (16, 0), labels={"app": "data"})
    crowd.wait("high", 10, priority=5, relations=Relations(affinity=(near,)))
    assert crowd.preempted() == {}


def test_two_pods_do_not_count_on_the_same_room() -> None:
    crowd = Crowd(((16,), (16,)))
    crowd.run("a", 0, (16, 0))
    crowd.run("b", 1, (16, 0))
    crowd.wait("first", 10, priority=5)
    crowd.wait("second", 10, priority=5)
    assert crowd.preempted() == {"first": ["b"], "second": ["a"]}


def test_second_pod_uses_what_the_first_leaves_of_the_room() -> None:
    crowd = Crowd(((16,), (16,)))
    crowd.run("a", 0, (16, 0))
    crowd.run("b", 1, (16, 0))
    crowd.wait("first", 10, priority=5)
    crowd.wait("second", 6, priority=5)
    assert crowd.preempted() == {"first": ["b"], "second": []}


def test_pod_that_was_refused_where_it_was_planned_does_not_preempt() -> None:
    crowd = two_of_eight()
    backed_off = '{"backoff":{"attempts":1,"until":"2026-01-01T11:00:00Z","words":"no"}}'
    crowd.wait("high", 10, priority=5, progress=backed_off)
    assert crowd.preempted() == {}


def test_scheduler_that_preempts_for_the_pod_is_let_do_so() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5, gates=(), nominated="n0", unschedulable="0/1 nodes")
    assert crowd.preempted() == {}


def test_where_a_pod_waits_is_written_before_anybody_is_evicted() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5)
    first = crowd.decide()
    assert [type(action) for action in first.actions] == [Inform]
    (note,) = [a.note for a in first.actions if isinstance(a, Inform)]
    crowd.change("high", progress=note)
    # A planner that was started anew does the same as the old one.
    second = crowd.decide()
    evicted = [(a.pod.name, a.by.name) for a in second.actions if isinstance(a, Evict)]
    assert evicted == [("a", "high"), ("b", "high")]
    assert crowd.decide(progress=first.progress).actions == second.actions


def test_pod_says_whose_end_it_waits_for() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5)
    decision = crowd.decide()
    (told,) = [a.available for a in decision.actions if isinstance(a, Inform)]
    assert told is not None, AVAILABLE
    assert "waits for the end of pods default/a, default/b on n0 GPU 0" in told.message


def test_pod_that_preempts_gives_up_when_others_do_not_end() -> None:
    crowd = two_of_eight()
    crowd.wait("high", 10, priority=5)
    hold = '{"preempting":{"node":"n0","gpus":["n0-0"],"until":"2026-01-01T11:59:00Z"}}'
    crowd.change("high", progress=hold)
    crowd.change("a", terminating=True)
    crowd.change("b", terminating=True)
    decision = crowd.decide()
    assert decision.progress["high"].phase is Phase.BACKOFF
    assert decision.progress["high"].preempting is None
    assert crowd.decide(progress=decision.progress).plan.preemptions == ()
    assert decision.progress["high"].words == ("pods that it preempts on n0 have not ended in time")


def test_clock_that_was_ahead_lets_a_pod_wait_for_others_no_longer() -> None:
    crowd = two_of_eight()
    hold = '{"preempting":{"node":"n0","gpus":["n0-0"],"until":"2026-01-01T15:00:00Z"}}'
    crowd.wait("high", 10, priority=5, progress=hold)
    for name in "ab":
        crowd.change(name, terminating=True, grace=30)
    waits = crowd.decide().progress["high"].preempting
    assert waits is not None
    assert waits.until == crowd.world.wall + timedelta(seconds=30) + ENDING
    crowd.change("high", progress=hold.replace("15:00:00", "12:00:31"))
    sooner = crowd.decide().progress["high"].preempting
    assert sooner is not None
    assert sooner.until == crowd.world.wall + timedelta(seconds=31)


def test_pod_that_cannot_be_evicted_is_passed_over_for_a_while() -> None:
    crowd = Crowd(((16,), (16,)))
    crowd.run("refused", 0, (8, 0))
    crowd.run("other", 1, (16, 0))
    crowd.run("beside", 0, (8, 0), priority=5)
    crowd.wait("high", 8, priority=5)
    assert crowd.preempted() == {"high": ["refused"]}
    later = crowd.world.wall.replace(minute=1)
    decision = crowd.decide(spared={"refused": later})
    assert [v.name for p in decision.plan.preemptions for v in p.victims] == ["other"]
    assert decision.due is not None
    assert decision.due <= later


def test_note_keeps_where_a_pod_waits() -> None:
    text = '{"preempting":{"node":"n0","gpus":["n0-0"],"until":"2026-01-01T12:00:00Z"}}'
    hold = read_note(text).progress.preempting
    assert hold is not None
    assert (hold.node, hold.gpus) == ("n0", ("n0-0",))


def test_budget_whose_status_is_stale_allows_nothing() -> None:
    budget = {
        "metadata": {"namespace": "default", "name": "b", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "a"}}},
        "status": {"disruptionsAllowed": 1, "observedGeneration": 1},
    }
    assert parse_budget(budget).allowed == 0
    budget["status"] = {"disruptionsAllowed": 1, "observedGeneration": 2}
    assert parse_budget(budget).allowed == 1


def test_cheapest_choice_is_found_among_many_of_one_gpu() -> None:
    offers = [Offer((1 + number % 7,), 10 + number % 5) for number in range(48)]
    answer = cheapest((60,), offers, (), Budget(1_000_000))
    assert answer is not None
    cost, places = answer
    assert cost == sum(offers[place].cost for place in places)
    assert sum(offers[place].gives[0] for place in places) >= 60


def test_pod_is_bound_once_the_others_have_ended_and_they_do_not_come_back() -> None:
    """What a controller makes anew in their place waits, and evicts nobody."""
    life = a_life((16,), preemption=True)
    for name in "ab":
        come(life, name, 8)
    rest(life, 5)
    come(life, "high", 10, priority=5)
    rest(life, 0.5)
    assert bound(life) == {"a", "b"}  # they take a second to end
    rest(life, 1)
    assert "high" in bound(life)
    rest(life, 3_600)
    assert bound(life) == {"high"}
    assert life.seen["evictions"] == 2
    end(life, "high")


def test_younger_pod_of_equal_priority_does_not_take_what_comes_free() -> None:
    life = a_life((16,), preemption=True)
    for name in "ab":
        come(life, name, 8)
    rest(life, 5)
    come(life, "high", 10, priority=5)
    rest(life, 0.1)
    come(life, "younger", 8, priority=5)
    end(life, "a")  # one of the two ends at once, the other takes its time
    rest(life, 10)
    assert "high" in bound(life)
    assert "younger" not in bound(life)


def test_pod_that_has_its_slice_is_not_looked_at_because_others_once_had_to_end() -> None:
    crowd = Crowd(((16,),))
    hold = '{"preempting":{"node":"n0","gpus":["n0-0"],"until":"2026-01-01T11:59:00Z"}}'
    crowd.wait("high", 10, priority=5, progress=hold)
    first = crowd.decide()
    assert [placement.pod.name for placement in first.plan.placements] == ["high"]
    assert first.due is None or first.due > crowd.world.wall
