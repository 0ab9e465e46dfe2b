"""A new leader that was told that kube-scheduler may lag behind after an outage."""

import time

import pytest

from mpslice.kube.outage import LINGER, LONGEST
from planner.state.cluster import Cluster
from tests.planner.leading import layout_object, leading, node_object, pod_object, until
from tests.planner.memory import Memory
from tests.planner.test_decide import a_layout
from tests.waiting import eventually


def a_cluster() -> Cluster:
    return Cluster(Memory(), lambda _change: None, lambda: None)


def test_new_leader_does_not_know_what_may_be_seen_still_and_looks_again_at_the_end() -> None:
    cluster, now = a_cluster(), time.monotonic()
    assert not cluster.is_blind(now)
    assert not cluster.catching_up(now)
    cluster.inherit(100.0)
    told = time.monotonic()
    for at, lags in ((now + 61, True), (told + 63, False)):
        assert (cluster.is_blind(at), cluster.catching_up(at)) == (lags, lags)
    cluster.inherit(1.0)  # of another term: it shortens nothing
    due = cluster.leaving_due(now + 61)
    assert due is not None
    assert now + 61 < due <= told + LINGER + LONGEST
    assert 61 <= cluster.seconds_behind(now + 1) <= 61 + told - now
    assert cluster.seconds_behind(told + 63) == 0


def a_pod_whose_slice_stands() -> Memory:
    return Memory(
        nodes=[node_object("n1", {"nvidia.com/gpu-10gb": "1", "cpu": "10", "pods": "10"})],
        nodelayouts=[layout_object(a_layout("n1", free={10: 1}))],
        pods=[pod_object("ready", 10, "2026-01-01T00:00:00Z")],
    )


async def test_no_gate_goes_before_the_scheduler_follows_again() -> None:
    kube, begun = a_pod_whose_slice_stands(), time.monotonic()
    async with leading(kube, message="1"):
        await eventually(until(lambda: ("ready", None) in kube.seen), "the gate goes")
        assert time.monotonic() >= begun + 1


@pytest.mark.parametrize("message", ["", "soon", "-5", "1e9"])
async def test_message_that_is_no_number_of_seconds_keeps_no_gate(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inherit(_: Cluster, seconds: float) -> None:
        raise AssertionError(f"{seconds} seconds were read out of {message!r}")

    monkeypatch.setattr(Cluster, "inherit", inherit)
    kube = a_pod_whose_slice_stands()
    async with leading(kube, message=message):
        await eventually(until(lambda: ("ready", None) in kube.seen), "the gate goes")
