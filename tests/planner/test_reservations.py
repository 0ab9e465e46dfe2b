"""Reservations: exactly what the unit needs, for 15 minutes from their own start, then the next."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from planner.model.constraints import Resources
from planner.model.nodes import NodeState
from planner.model.plan import Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from tests.planner.test_packing import gb, node, pod, where

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROOM = Resources(32_000, 1 << 38)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def aged(name: str, size: int, minutes: float, **fields: object) -> Pod:
    return pod(name, size, created=ago(minutes).strftime("%Y-%m-%dT%H:%M:%SZ"), **fields)


def machine(name: str, *capacities: int, idle: Resources = ROOM, **fields: object) -> NodeState:
    state = node(name, *capacities, idle=idle, **fields)  # type: ignore[arg-type]
    return replace(state, node=replace(state.node, allocatable=ROOM))


def planned(
    nodes: tuple[NodeState, ...], *pods: Pod, reserving: Mapping[str, datetime] | None = None
) -> Plan:
    return plan(Snapshot(nodes, now=NOW, reserving=reserving or {}), pods)


def holders(made: Plan) -> dict[str, datetime | None]:
    return {reservation.pod.name: reservation.since for reservation in made.reservations}


def test_rest_of_a_gpu_is_used_by_others_while_a_part_of_it_is_reserved() -> None:
    """The group lacks 80gb for one member; of the GPU where the other fits it keeps 5gb."""
    nodes = (machine("n1", 80, used={0: gb({20: 1})}), machine("n2", 80, used={0: gb({10: 1})}))
    group = [aged(f"m{n}", size, 6, group="g", min_member=2) for n, size in enumerate((5, 80))]
    made = planned(nodes, *group, aged("young", 40, 1))
    assert {r.node for r in made.reservations} == {"n1", "n2"}
    assert where(made) == {"young": "n1"}


def test_cpu_is_reserved_and_not_only_a_gpu() -> None:
    """The old pod lacks CPU: a younger one on the other GPU must not take what comes free."""
    nodes = (machine("n1", 80, 80, idle=Resources(6_000, 1 << 38)),)
    old = aged("old", 20, 6, requests=Resources(8_000))
    made = planned(
        nodes, old, aged("hungry", 20, 1, requests=Resources(4_000)), aged("light", 20, 1)
    )
    assert holders(made) == {"old": NOW}
    assert where(made) == {"light": "n1"}


def test_gpu_on_which_cpu_is_lacking_is_used_by_those_that_need_none() -> None:
    nodes = (machine("n1", 80, idle=Resources(6_000, 1 << 38)),)
    made = planned(nodes, aged("old", 20, 6, requests=Resources(8_000)), aged("light", 60, 1))
    assert where(made) == {"light": "n1"}


@pytest.mark.parametrize(
    ("minutes", "reserves"), [(0, True), (14.9, True), (15, False), (60, False)]
)
def test_reservation_lasts_15_minutes_from_its_own_start(minutes: float, reserves: bool) -> None:
    """However long ago the pod was made: another gate may have kept it, or it waited its turn."""
    nodes = (machine("n1", 80, used={0: gb({50: 1})}),)
    pods = [aged("old", 60, 90), aged("young", 20, 1)]
    made = planned(nodes, *pods, reserving={"old": ago(minutes)})
    assert where(made) == ({} if reserves else {"young": "n1"})
    assert holders(made) == ({"old": ago(minutes)} if reserves else {})


def test_next_oldest_has_its_turn_once_a_reservation_has_ended() -> None:
    nodes = (machine("n1", 80, used={0: gb({50: 1})}),)
    pods = [aged("first", 60, 30), aged("second", 70, 29), aged("young", 20, 1)]
    assert holders(planned(nodes, *pods)) == {"first": NOW}
    ended = planned(nodes, *pods, reserving={"first": ago(15)})
    assert (holders(ended), where(ended)) == ({"second": NOW}, {})


def test_running_reservation_is_kept_although_an_older_pod_waits() -> None:
    nodes = (machine("n1", 80, used={0: gb({50: 1})}),)
    pods = [aged("older", 80, 40), aged("holder", 60, 30)]
    made = planned(nodes, *pods, reserving={"older": ago(50), "holder": ago(3)})
    assert holders(made) == {"holder": ago(3)}


def test_time_that_another_gate_kept_a_pod_does_not_count_as_waiting() -> None:
    nodes = (machine("n1", 80, used={0: gb({50: 1})}),)
    old = replace(aged("old", 60, 60), since=ago(1).strftime("%Y-%m-%dT%H:%M:%SZ"))
    made = planned(nodes, old, aged("young", 20, 2))
    assert (holders(made), where(made)) == ({}, {"young": "n1"})


def test_no_free_slice_is_withdrawn_for_what_is_only_reserved() -> None:
    """A pod is carved beside a reservation: what is kept is not there yet."""
    nodes = (machine("n1", 80, used={0: gb({40: 1})}, free={0: gb({10: 2})}),)
    made = planned(nodes, aged("old", 41, 6), aged("young", 10, 1))
    assert made.withdrawn == 0
    assert where(made) == {}


def test_more_that_is_kept_of_a_gpu_than_it_has_left_takes_nothing_from_the_gpu_beside_it() -> None:
    """Of GPU 1 all is kept, and another pod still uses a part; GPU 0 has exactly what is asked."""
    nodes = (machine("n1", 40, 80, used={1: gb({60: 1})}),)
    two = pod("two", 20, 20, created=ago(1).strftime("%Y-%m-%dT%H:%M:%SZ"))
    made = planned(nodes, aged("old", 80, 6), two)
    assert holders(made) == {"old": NOW}
    assert where(made) == {"two": "n1"}
