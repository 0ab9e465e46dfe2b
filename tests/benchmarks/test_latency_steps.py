"""The steps between a pod's creation and its binding, from what watches show."""

from itertools import count

from benchmarks.latency_steps import LayoutSeen, PodSeen, Step, Trail, median_steps
from mpslice.kube.reflector import Change

POD = "default/a"
GATED, LET_GO, BOUND = PodSeen("", True), PodSeen("", False), PodSeen("n1", False)


def trail() -> Trail:
    """Its clock goes on by a millisecond at each asking."""
    ticks = count(1)
    return Trail(clock=lambda: next(ticks) / 1000)


def took(seen: Trail) -> list[tuple[Step, int]]:
    return [(step, round(milliseconds)) for step, milliseconds in seen.durations().items()]


def test_pod_of_a_new_size_takes_every_step_but_a_withdrawal() -> None:
    seen = trail()
    seen.layout(Change("n1", None, LayoutSeen(1)))
    seen.node(Change("n1", None, {}))
    seen.begin(POD, "nvidia.com/gpu-10gb")
    seen.pod(Change(POD, None, GATED))
    seen.layout(Change("n1", None, LayoutSeen(2)))
    assert Step.CARVED not in seen.durations()
    seen.node(Change("n1", None, {"nvidia.com/gpu-10gb": 1}))
    seen.pod(Change(POD, GATED, LET_GO))
    seen.pod(Change(POD, LET_GO, BOUND))
    steps = [step for step, _ in took(seen)]
    assert steps == [Step.CREATED, Step.PLANNED, Step.CARVED, Step.LET_GO, Step.BOUND]
    assert sum(milliseconds for _, milliseconds in took(seen)) >= len(steps)


def test_withdrawal_is_seen_by_what_the_node_shows_less() -> None:
    seen = trail()
    seen.layout(Change("n1", None, LayoutSeen(1)))
    seen.node(Change("n1", None, {"nvidia.com/gpu-20gb": 1}))
    seen.begin(POD, "nvidia.com/gpu-10gb")
    seen.pod(Change(POD, None, GATED))
    seen.layout(Change("n1", None, LayoutSeen(2)))
    seen.node(Change("n1", None, {"nvidia.com/gpu-20gb": 0}))
    seen.node(Change("n1", None, {"nvidia.com/gpu-20gb": 0, "nvidia.com/gpu-10gb": 1}))
    assert [step for step, _ in took(seen)] == [
        *(Step.CREATED, Step.PLANNED, Step.CLOSED, Step.CARVED),
    ]


def test_pod_of_a_size_that_stands_is_let_go_at_once() -> None:
    seen = trail()
    seen.layout(Change("n1", None, LayoutSeen(1)))
    seen.begin(POD, "nvidia.com/gpu-10gb")
    seen.pod(Change("default/other", None, BOUND))
    seen.pod(Change(POD, None, GATED))
    seen.pod(Change(POD, GATED, BOUND))
    assert took(seen) == [(Step.CREATED, 1), (Step.LET_GO, 1), (Step.BOUND, 1)]


def test_median_is_of_the_pods_that_took_the_step() -> None:
    pods = [{Step.BOUND: 1.0}, {Step.BOUND: 3.0, Step.CLOSED: 7.0}, {Step.BOUND: 2.0}]
    assert median_steps(pods) == {"node shows less": 7.0, "bound": 2.0}
