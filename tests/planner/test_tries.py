"""A pod that was given a slice twice and is still not bound is tried elsewhere."""

from dataclasses import replace

from mpslice.gpus import GpuUuid
from planner.gate.tries import PATIENCE, SILENCE, Tries
from planner.model import Placement, Pod, Refusal

POD = Pod("default", "p", uid="u")
REFUSED = replace(POD, unschedulable="0/2 nodes are available: volume node affinity conflict")


def at(node: str, pod: Pod = POD) -> list[Placement]:
    return [Placement(pod, node, (GpuUuid("g"),))]


def test_node_is_avoided_after_the_scheduler_has_refused_it_twice() -> None:
    tries = Tries()
    assert not tries.watch(at("n1"), 0.0)
    assert not tries.watch(at("n1", REFUSED), 0.1)
    assert tries.due() == 0.1 + PATIENCE
    assert not tries.watch(at("n1", REFUSED), 0.1 + PATIENCE)
    assert tries.avoided(REFUSED) == frozenset()
    assert tries.watch(at("n1", REFUSED), 0.1 + 2 * PATIENCE)
    assert tries.avoided(REFUSED) == {"n1"}


def test_silence_of_the_scheduler_counts_after_a_longer_time() -> None:
    tries = Tries()
    tries.watch(at("n1"), 0.0)
    assert tries.due() == SILENCE
    assert not tries.watch(at("n1"), SILENCE)
    assert tries.watch(at("n1"), 2 * SILENCE)


def test_what_the_scheduler_said_before_the_slice_was_there_is_no_answer() -> None:
    tries = Tries()
    tries.watch(at("n1", REFUSED), 0.0)
    tries.watch(at("n1", REFUSED), 1.0)
    assert tries.due() == SILENCE
    tries.watch(at("n1", replace(POD, unschedulable="something else")), 2.0)
    assert tries.due() == 2.0 + PATIENCE


def test_slice_that_went_to_another_is_no_failure_of_the_node() -> None:
    tries = Tries()
    tries.watch(at("n1"), 0.0)
    tries.watch([], 1.0)
    assert tries.due() is None
    tries.watch(at("n1"), 2.0)
    assert tries.due() == 2.0 + SILENCE


def test_failures_on_different_nodes_are_counted_apart() -> None:
    tries = Tries()
    tries.watch(at("n1"), 0.0)
    assert not tries.watch(at("n1"), SILENCE)
    assert not tries.watch(at("n2"), SILENCE + 1)
    assert not tries.watch(at("n2"), 2 * SILENCE + 1)
    assert tries.avoided(POD) == frozenset()


def test_pod_that_fits_nowhere_else_gets_its_nodes_back() -> None:
    tries = Tries()
    for turn in range(3):
        tries.watch(at("n1"), turn * SILENCE)
    assert tries.avoided(POD) == {"n1"}
    assert tries.give_up([Refusal(POD, ())])
    assert tries.avoided(POD) == frozenset()
    assert not tries.give_up([Refusal(POD, ())])


def test_bound_pod_is_forgotten() -> None:
    tries = Tries()
    for turn in range(3):
        tries.watch(at("n1"), turn * SILENCE)
    tries.forget("u")
    assert tries.avoided(POD) == frozenset()
    assert tries.due() is None
    assert not tries.follows("u")
