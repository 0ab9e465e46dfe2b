"""Reservations as the plan makes them: only GPUs that the pod waits for, where it could run."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from planner.model.constraints import HostPort, Resources
from planner.model.nodes import NodeState
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_late import NEAR_WEB, WEB
from tests.planner.test_packing import gb, node, pod, where

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO, LATELY = "2026-01-01T11:50:00Z", "2026-01-01T11:59:00Z"
HAS = Resources(32_000, 1 << 38, 1 << 38, (("example.com/rdma", 4),))


def machine(name: str, *capacities: int, has: Resources = HAS, **fields: Any) -> NodeState:
    state = node(name, *capacities, idle=has, **fields)
    return replace(state, node=replace(state.node, allocatable=has))


def test_gpu_is_reserved_where_its_memory_is_what_is_lacking() -> None:
    snapshot = Snapshot((machine("n1", 80, used={0: gb({70: 1})}),), now=NOW)
    made = plan(snapshot, [pod("old", 20, created=LONG_AGO), pod("young", 10, created=LATELY)])
    assert [reservation.pod.name for reservation in made.reservations] == ["old"]
    assert where(made) == {}


@pytest.mark.parametrize(
    "wants",
    [
        {"requests": Resources(extended=(("example.com/none", 1),))},
        {"requests": Resources(ephemeral=1 << 39)},
        {"ports": frozenset({HostPort(80)})},
        {"relations": NEAR_WEB},
    ],
    ids=["extended resource", "ephemeral storage", "port", "neighbour"],
)
def test_no_gpu_is_kept_for_a_pod_that_waits_for_something_else(wants: dict[str, Any]) -> None:
    state = replace(machine("n1", 80), ports=frozenset({HostPort(80)}))
    old, young = pod("old", 10, created=LONG_AGO, **wants), pod("young", 10, created=LATELY)
    made = plan(Snapshot((state,), now=NOW), [old, young])
    assert made.reservations == ()
    assert where(made) == {"young": "n1"}


def test_node_is_chosen_that_has_the_resource_once_others_are_gone() -> None:
    without = machine("n0", 80, used={0: gb({40: 1})}, has=replace(HAS, extended=()))
    full = machine("n1", 80, used={0: gb({80: 1})})
    wants = Resources(extended=(("example.com/rdma", 1),))
    old, young = pod("old", 40, created=LONG_AGO, requests=wants), pod("young", 20, created=LATELY)
    made = plan(Snapshot((without, full), now=NOW), [old, young])
    assert [reservation.node for reservation in made.reservations] == ["n1"]
    assert where(made) == {"young": "n0"}


def test_no_gpu_is_kept_for_more_slices_than_it_may_have() -> None:
    snapshot = Snapshot((machine("n1", 80),), max_slices_per_gpu=2, now=NOW)
    old, young = pod("old", 5, 5, 5, created=LONG_AGO), pod("young", 10, created=LATELY)
    made = plan(snapshot, [old, young])
    assert made.reservations == ()
    assert where(made) == {"young": "n1"}


def test_pod_that_waits_for_a_younger_one_follows_it() -> None:
    old = pod("old", 10, created=LONG_AGO, relations=NEAR_WEB)
    web = pod("web", 10, created=LATELY, labels=WEB)
    made = plan(Snapshot((machine("n1", 80),), now=NOW), [old, web])
    assert [placement.pod.name for placement in made.placements] == ["web", "old"]
