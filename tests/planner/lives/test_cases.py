"""Lives that went wrong once, each step by step."""

import random
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from planner.model.constraints import Resources
from planner.model.plan import Cause
from planner.model.pods import GATE
from planner.progress.machine import Phase
from planner.words.explain import refusal_text
from tests.planner.lives.invariants import Judge
from tests.planner.lives.life import Kind, Life
from tests.planner.lives.world import world_of


def a_life(*gpus: tuple[int, ...], cpu: int = 64_000, **kind: Any) -> Life:
    dice = random.Random(1)
    return Life(1, Kind(**kind), Judge(), world_of(gpus, dice, cpu))


def come(life: Life, name: str, *sizes: int, gates: tuple[str, ...] = (GATE,), **of: Any) -> None:
    life.add(name, list(sizes), gates, of)


def bound(life: Life) -> set[str]:
    return {pod.name for pod in life.world.pods.values() if pod.node}


def end(life: Life, name: str) -> None:
    life.world.end(f"default/{name}")


def rest(life: Life, seconds: float) -> None:
    life.pass_time(seconds)
    assert not life.problems, life.problems


def told(life: Life, name: str) -> str:
    refused = {refusal.pod.name: refusal for refusal in life.decision.refused}
    return refusal_text(refused[name], "part=mps")


def visible(life: Life) -> int:
    """Pods that an autoscaler sees."""
    pods = life.world.pods.values()
    return sum(bool(p.unschedulable) and not p.gates and not p.node for p in pods)


@pytest.mark.parametrize("clears", [True, False], ids=["cleared", "kept"])
def test_pods_of_equal_size_are_served_in_their_order_when_one_after_another_ends(
    clears: bool,
) -> None:
    """A reservation's nomination once kept those off whose slices were planned there.

    Where the scheduler clears a nomination before the slice stands, the order is not promised.
    """
    life = a_life((80,), clears=clears)
    for name, size in (("large", 40), ("first", 20), ("second", 20)):
        come(life, name, size)
    rest(life, 60)
    for name in "abcd":
        come(life, name, 20)
        rest(life, 2)
    rest(life, 400)
    end(life, "large")
    rest(life, 5)
    assert len(bound(life)) == 4
    end(life, "first")
    rest(life, 5)
    assert len(bound(life)) == 4
    if not clears:
        assert bound(life) == {"second", "a", "b", "c"}


def test_pods_whose_claims_do_not_exist_hold_no_gpu() -> None:
    life = a_life(*[(80, 80)] * 3, broken=True)
    for number in range(6):
        come(life, f"broken{number}x", 80)
    rest(life, 30)
    good = {f"good{number}" for number in range(12)}
    for name in sorted(good):
        come(life, name, 20)
    rest(life, 60)
    assert good <= bound(life)
    assert 'persistentvolumeclaim "broken0x" not found' in told(life, "broken0x")
    assert {p.phase for p in life.planner.progress.values()} == {Phase.BACKOFF}


def test_pod_that_no_node_will_ever_take_hardly_writes_anything() -> None:
    life = a_life(*[(80,)] * 6, broken=True)
    come(life, "brokenx", 40)
    rest(life, 3600)
    before = life.writes
    rest(life, 3600)
    assert life.writes - before <= 2 * 3600 / 300 + 1  # a word and a new time, every five minutes


def test_pod_with_a_volume_elsewhere_finds_its_node_and_leaves_nothing_behind() -> None:
    life = a_life(*[(80,)] * 12, broken=True)
    come(life, "volumez", 10)
    rest(life, 300)
    assert bound(life) == {"volumez"}


def test_slice_that_is_not_made_is_made_elsewhere() -> None:
    life = a_life((40,), (80,), faults=True)
    life.world.agents["n0"].fault = "refusing"
    come(life, "p", 20)
    rest(life, 29)
    assert bound(life) == set()
    rest(life, 5)
    assert bound(life) == {"p"}
    assert "has not applied the layout for 30 seconds" in life.decision.away["n0"]


def test_gate_that_is_never_taken_away_gives_its_slice_to_the_next() -> None:
    life = a_life((80,), denied=True)
    come(life, "keptd", 80)
    rest(life, 1)
    come(life, "next", 80)
    rest(life, 30)
    assert bound(life) == {"next"}
    assert told(life, "keptd").startswith("80gb: Backoff (its scheduling gate cannot be taken away")


def test_reservation_hides_no_backlog() -> None:
    life = a_life(*[(80,)] * 10)
    for number in range(80):
        come(life, f"run{number:02}", 10)
    rest(life, 60)
    come(life, "old", 40)
    rest(life, 302)
    assert [r.pod.name for r in life.decision.plan.reservations] == ["old"]
    for number in range(50):
        come(life, f"new{number:02}", 10)
    rest(life, 9)
    assert visible(life) >= 50  # of 51, one of which guards the reserved memory
    node = life.decision.plan.reservations[0].node
    for pod in [p for p in life.world.pods.values() if p.node == node][:4]:
        end(life, pod.name)
        rest(life, 1)
    assert "old" in bound(life)
    assert not any(pod.name.startswith("new") and pod.node for pod in life.world.pods.values())


def test_large_pods_are_placed_one_after_the_other_while_small_ones_come_and_go() -> None:
    dice, life = random.Random(2), a_life(*[(80,)] * 4)
    ends: list[tuple[float, str]] = []
    count = 0

    def small() -> None:
        nonlocal count
        count += 1
        come(life, f"s{count:04}", 10)
        ends.append((life.world.now + 60 * dice.uniform(3, 8), f"s{count:04}"))

    for _ in range(32):
        small()
    rest(life, 60)
    for number in range(3):
        come(life, f"big{number}", 80)
    limit = life.world.now + 60 * (5 + 3 * 15)
    while life.world.now < limit and not {"big0", "big1", "big2"} <= bound(life):
        if sum(not pod.node for pod in life.world.pods.values()) < 12:
            small()
        for at, name in [each for each in ends if each[0] <= life.world.now]:
            if name in bound(life):
                end(life, name)
                ends.remove((at, name))
        rest(life, 30)
    assert {"big0", "big1", "big2"} <= bound(life), life.world.now / 60


def test_waiting_counts_from_when_other_gates_went() -> None:
    life = a_life((80,), held=True)
    come(life, "runs", 70)
    come(life, "held", 80, gates=(GATE, "example.com/quota"))
    rest(life, 1_500)
    held = life.world.pods["default/held"]
    life.planner.freed[held.uid] = life.world.wall
    life.world.put(replace(held, gates=(GATE,)))
    rest(life, 240)
    assert not life.decision.plan.reservations
    assert '"since":' in life.world.pods["default/held"].progress
    rest(life, 100)
    assert [r.pod.name for r in life.decision.plan.reservations] == ["held"]
    start = life.planner.progress["held"].reserving
    assert isinstance(start, datetime)
    life.planner = type(life.planner)()  # a restart
    life.world.touched += 1
    rest(life, 1)
    assert life.planner.progress["held"].reserving == start


def test_condition_says_why_a_pod_waits_and_that_it_does_no_more() -> None:
    life = a_life((80,))
    come(life, "runs", 80)
    rest(life, 5)
    assert life.world.pods["default/runs"].available is None  # it was bound within a second
    come(life, "waits", 40, requests=Resources(1_000))
    rest(life, 1)
    assert life.world.pods["default/waits"].available is None
    rest(life, 3)
    said = life.world.pods["default/waits"].available
    assert said is not None
    assert (said.status, said.reason) == (False, Cause.GPU_MEMORY)
    assert said.message == (
        "40gb: 0 of 1 nodes: 1 GPUMemory (largest hole 0gb on n0 GPU 0); in the queue: first"
    )
    end(life, "runs")
    rest(life, 5)
    said = life.world.pods["default/waits"].available
    assert said is not None
    assert said.status


def test_thousand_pods_that_wait_are_written_once_and_hardly_again() -> None:
    life = a_life((80,))
    come(life, "runs", 80)
    rest(life, 5)
    for number in range(300):
        come(life, f"w{number:03}", 40)
    rest(life, 20)
    before = life.writes
    for _ in range(20):  # the first leaves the queue, again and again
        life.world.end(min(life.world.pods, key=lambda key: (key == "default/runs", key)))
        rest(life, 1)
    assert life.writes - before <= 60
