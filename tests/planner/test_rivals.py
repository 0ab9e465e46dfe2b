"""Who is nominated: nobody without need, and whoever's slice another could be bound to."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from planner.gate.rivals import Rivals, nominations
from planner.model.constraints import Constraints, Resources
from planner.model.nodes import NodeState
from planner.model.plan import Placement, Reservation
from planner.model.pods import GATE, Pod
from tests.planner.test_packing import gb, node, on, pod

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)

STATES = (node("n1", 80), node("n2", 80))


def gated(name: str, *sizes: int, **fields: Any) -> Pod:
    return pod(name, *(sizes or (10,)), gates=(GATE,), **fields)


def at(pod: Pod, node: str = "n1") -> Placement:
    return Placement(pod, node, (GpuUuid(f"{node}-0"),) * len(pod.seats))


def nominated(
    *placements: Placement,
    loose: tuple[Pod, ...] = (),
    stuck: tuple[Pod, ...] = (),
    reservations: tuple[Reservation, ...] = (),
    states: tuple[NodeState, ...] = STATES,
    going: tuple[tuple[str, int], ...] = (),
    ending: tuple[str, ...] = (),
) -> dict[str, str]:
    leaving = [(node, SliceSize(size)) for node, size in going]
    rivals = Rivals(placements, loose, reservations, leaving, states, ending)
    found = nominations(placements, loose, stuck, reservations, rivals, {}, NOW)
    return {action.pod.name: action.node for action in found}


def test_lone_pod_and_pods_alike_are_not_nominated() -> None:
    assert nominated(at(gated("a"))) == {}
    assert nominated(*(at(gated(f"p{i}"), f"n{1 + i % 2}") for i in range(6))) == {}


def test_pod_is_nominated_when_one_without_place_and_gate_could_take_its_slice() -> None:
    assert nominated(at(gated("a")), loose=(pod("rival", 10),)) == {"a": "n1"}


@pytest.mark.parametrize(
    "other",
    [pod("other", 20), pod("other", 10, constraints=on("n2")), pod("other", 10, priority=1)],
    ids=["size", "node", "priority"],
)
def test_pod_that_could_not_take_it_or_cannot_be_kept_off_is_no_rival(other: Pod) -> None:
    assert nominated(at(gated("a")), loose=(other,)) == {}


def test_pods_that_may_not_take_each_others_slices_are_all_nominated() -> None:
    flexible, pinned = gated("flexible"), gated("pinned", constraints=on("n2"))
    assert nominated(at(flexible, "n1"), at(pinned, "n2")) == {"flexible": "n1", "pinned": "n2"}
    assert nominated(at(flexible, "n2"), at(pinned, "n2")) == {}


@pytest.mark.parametrize(("idle", "named"), [(3500, {"light": "n2", "heavy": "n1"}), (3800, {})])
def test_pods_are_nominated_where_one_could_take_the_cpu_that_another_needs(
    idle: int, named: dict[str, str]
) -> None:
    light = replace(gated("light"), requests=Resources(cpu_milli=500))
    heavy = replace(gated("heavy"), requests=Resources(cpu_milli=3800))
    idles = (Resources(cpu_milli=4000), Resources(cpu_milli=idle))
    states = tuple(replace(s, idle=idle) for s, idle in zip(STATES, idles, strict=True))
    assert nominated(at(light, "n2"), at(heavy, "n1"), states=states) == named
    assert nominated(at(light, "n1"), at(heavy, "n1"), states=states) == {}


def test_pods_of_several_sizes_are_nominated_where_together_they_could_take_too_much() -> None:
    def asking(name: str, size: int, cpu: int, node: str) -> Placement:
        return at(replace(gated(name, size), requests=Resources(cpu_milli=cpu)), node)

    states = tuple(replace(state, idle=Resources(cpu_milli=4000)) for state in STATES)
    tens = asking("a", 10, 500, "n1"), asking("b", 10, 2500, "n2")
    twenties = asking("c", 20, 500, "n1"), asking("d", 20, 1500, "n2")
    assert nominated(*tens, *twenties, states=states) == {}
    more = asking("d", 20, 1500, "n2"), asking("c", 20, 500, "n1"), asking("e", 40, 500, "n1")
    assert set(nominated(*tens, *more, states=states)) == {"a", "b", "c", "d"}


def test_pod_that_needs_two_slices_of_one_node_is_kept_from_losing_one() -> None:
    single, double = gated("single"), gated("double", 10, 20)
    assert nominated(at(single, "n2"), at(double, "n1")) == {"single": "n2", "double": "n1"}


def test_pod_that_the_scheduler_refused_elsewhere_is_kept_from_losing_its_last_place() -> None:
    tried, other = gated("tried", avoid=frozenset({"n1"})), gated("other")
    assert nominated(at(tried, "n2"), at(other, "n1")) == {"tried": "n2", "other": "n1"}


def test_each_size_of_a_pod_counts() -> None:
    assert nominated(at(gated("a", 10, 20)), loose=(pod("rival", 20),)) == {"a": "n1"}


def test_nomination_that_is_right_is_left_and_one_that_is_wrong_is_changed() -> None:
    rivals = (pod("rival", 10),)
    assert nominated(at(gated("a", nominated="n1")), loose=rivals) == {}
    assert nominated(at(gated("a", nominated="n2"))) == {"a": "n1"}


def test_what_the_scheduler_nominated_itself_is_left_alone() -> None:
    assert nominated(at(pod("a", 10, nominated="n2")), loose=(pod("rival", 10),)) == {}


def test_what_the_scheduler_nominated_is_given_up_once_it_only_hinders_others() -> None:
    """Its victims are gone, others have their room, and it is still counted against them."""
    waiting = pod("a", 20, 10, nominated="n1", priority=5)
    assert "a" not in nominated(loose=(waiting,))
    assert "a" not in nominated(at(gated("b"), "n2"), loose=(waiting,))
    assert "a" not in nominated(at(gated("b", priority=6)), loose=(waiting,))
    assert "a" not in nominated(at(gated("b")), loose=(waiting,), ending=("n1",))
    assert nominated(at(gated("b")), loose=(waiting,))["a"] == ""


def test_gated_pod_that_lost_its_place_gives_it_up() -> None:
    waiting = gated("a", nominated="n1")
    assert nominated(stuck=(waiting,)) == {"a": ""}
    assert nominated(loose=(waiting,)) == {"a": ""}
    assert nominated(loose=(replace(waiting, gates=()),)) == {}


BIG = pod("big", 10)
KEPT = (Reservation(BIG, "n1", (GpuUuid("n1-0"),)),)


def test_pod_that_waits_for_a_slice_to_come_free_is_nominated_before_its_rivals() -> None:
    states = (node("n1", 80, used={0: gb({10: 8})}), node("n2", 80))
    rivals = (BIG, pod("rival", 10))
    assert nominated(loose=rivals, reservations=KEPT, states=states) == {"big": "n1"}
    assert nominated(loose=(BIG,), reservations=KEPT, states=states) == {}
    assert nominated(loose=rivals, reservations=KEPT) == {}, "no slice of the size stands there"


def test_pod_is_led_past_a_free_slice_on_a_gpu_that_another_reserved() -> None:
    states = (node("n1", 80, free={0: gb({20: 1})}), node("n2", 80))
    other = at(gated("a", 20), "n2")
    assert nominated(other, reservations=KEPT, states=states) == {"a": "n2"}
    assert nominated(at(gated("a", 10), "n2"), reservations=KEPT, states=states) == {}


def test_pod_is_led_past_a_free_slice_that_is_to_be_withdrawn() -> None:
    assert nominated(at(gated("a"), "n2"), going=(("n1", 10),)) == {"a": "n2"}
    assert nominated(at(gated("a"), "n2"), going=(("n1", 20), ("n2", 10))) == {}
    assert nominated(at(gated("a", constraints=on("n2")), "n2"), going=(("n1", 10),)) == {}


class Asked(Constraints):
    """Constraints that count how often something is looked up by them."""

    times = 0

    def __hash__(self) -> int:
        Asked.times += 1
        return super().__hash__()


def test_nodes_with_slices_to_be_withdrawn_are_not_gone_through_for_every_pod() -> None:
    elsewhere = Asked(node_selector=(("kubernetes.io/hostname", "n2"),))
    placements = [at(gated(f"p{i}", constraints=elsewhere), "n2") for i in range(200)]
    going = tuple((f"leaving-{i}", 10) for i in range(200))
    states = (*STATES, *(node(name, 80) for name, _ in going))
    assert nominated(*placements, going=going, states=states) == {}
    assert 0 < Asked.times < 4000


def test_very_many_kinds_of_rivals_are_not_looked_at_one_by_one() -> None:
    others = tuple(pod(f"r{i}", 10, constraints=on(f"host-{i}")) for i in range(100))
    assert nominated(at(gated("a")), loose=others) == {"a": "n1"}
