"""What Prometheus is told of the planner."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mpslice.gpus import GpuUuid, MemoryUnit
from mpslice.nodelayout import GpuSpec, LayoutSpec, NodeLayout
from planner.metrics import Metrics
from planner.model.constraints import Resources
from planner.model.nodes import NodeState
from planner.model.plan import Cause, Placement, Plan, Refusal
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot
from planner.stranded import stranded_gb
from planner.view import Decision
from planner.writes.actions import WriteSpec
from tests.planner.test_packing import gb, node, pod

BUSY = Resources(cpu_milli=500, memory=1 << 30)
ASKS = Resources(cpu_milli=1000, memory=1 << 20)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def stranded(states: tuple[NodeState, ...], *bound: Pod, pending: tuple[Pod, ...] = ()) -> object:
    snapshot = Snapshot(states, neighbours=Neighbours(pods={"n1": bound}))
    return list(stranded_gb(snapshot, pending))


def test_pods_are_counted_by_their_commonest_cause() -> None:
    metrics, waiting = Metrics(), pod("p", 10)
    decision = Decision(
        carving=(Placement(waiting, "n1", (GpuUuid("n1-0"),)),),
        refused=(
            Refusal(waiting, ((Cause.CPU, 1), (Cause.GPU_MEMORY, 2))),
            Refusal(waiting, ((Cause.CPU, 3),), own=Cause.GROUP),
        ),
        gated=(waiting, waiting),
    )
    metrics.decided(decision, seconds=0.002)
    counts = {
        cause: value(metrics, "mpslice_pods_pending", cause=cause)
        for cause in ("Carving", "GPUMemory", "Group", "Gated")
    }
    assert counts == {"Carving": 1, "GPUMemory": 1, "Group": 1, "Gated": 2}
    metrics.decided(Decision(), seconds=0.002)
    assert value(metrics, "mpslice_pods_pending", cause="Group") is None
    assert value(metrics, "mpslice_plan_seconds_count") == 2


def test_replica_that_does_not_lead_counts_nothing() -> None:
    metrics = Metrics()
    metrics.decided(Decision(gated=(pod("p", 10),)), seconds=0.002)
    metrics.idle()
    assert value(metrics, "mpslice_pods_pending", cause="Gated") is None


def test_waiting_is_measured_from_creation_even_before_the_planner_was_there() -> None:
    metrics = Metrics()
    created = (datetime.now(UTC) - timedelta(seconds=100)).strftime("%Y-%m-%dT%H:%M:%SZ")
    early = pod("early", 10, created=created)
    metrics.arrived(early)
    metrics.carved(early)
    assert value(metrics, "mpslice_pending_to_carved_seconds_sum") == pytest.approx(100, abs=2)


def test_short_waits_are_not_blurred_by_whole_seconds() -> None:
    metrics = Metrics()
    quick = pod("quick", 10, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    metrics.arrived(quick)
    metrics.carved(quick)
    assert value(metrics, "mpslice_pending_to_carved_seconds_bucket", le="0.05") == 1


def test_withdrawn_slices_are_counted_when_the_layout_is_written() -> None:
    metrics, gpu = Metrics(), GpuUuid("g")
    before = NodeLayout("n1", LayoutSpec((GpuSpec(gpu, gb({10: 3, 20: 1})),)))
    metrics.written(WriteSpec(before, LayoutSpec((GpuSpec(gpu, gb({10: 1, 40: 1})),))))
    assert value(metrics, "mpslice_withdrawals_planned_total") == 3


def test_evicted_pods_are_counted() -> None:
    metrics = Metrics()
    assert value(metrics, "mpslice_pods_preempted_total") == 0
    metrics.evicted()
    assert value(metrics, "mpslice_pods_preempted_total") == 1


def test_unused_memory_is_stranded_where_not_even_the_least_pod_finds_cpu() -> None:
    full = node("n1", 80, 40, used={0: gb({30: 1})}, idle=BUSY)
    states = (full, node("n2", 80))
    assert stranded(states, pod("bound", 30, requests=ASKS)) == [("n1", 0, 50), ("n1", 1, 40)]
    small = pod("small", 10, requests=replace(ASKS, cpu_milli=500))
    assert stranded(states, pod("bound", 30, requests=ASKS), pending=(small,)) == []


def test_memory_is_stranded_where_ram_or_places_for_pods_are_used_up() -> None:
    asks = replace(ASKS, memory=1 << 31, cpu_milli=0)
    places = replace(node("n2", 80), idle_pods=0)
    states = (node("n1", 80, idle=BUSY), places)
    assert stranded(states, pod("bound", 30, requests=asks)) == [("n1", 0, 80), ("n2", 0, 80)]


def test_stranded_memory_is_exported_beside_what_the_agents_export() -> None:
    metrics = Metrics()
    snapshot = Snapshot((node("n1", 80, idle=BUSY),))
    refusal = Refusal(pod("p", 10, requests=ASKS), ((Cause.CPU, 1),))
    metrics.decided(Decision(snapshot=snapshot, plan=Plan(refusals=(refusal,))), seconds=0.001)
    labels = {"node": "n1", "gpu": "0", "state": "stranded"}
    assert value(metrics, "mpslice_gpu_memory_bytes", **labels) == 80e9


def test_gpu_without_stranded_memory_is_exported_with_0() -> None:
    metrics = Metrics()
    metrics.decided(Decision(snapshot=Snapshot((node("n1", 80),))), seconds=0.001)
    labels = {"node": "n1", "gpu": "0", "state": "stranded"}
    assert value(metrics, "mpslice_gpu_memory_bytes", **labels) == 0


def test_memory_is_exported_in_bytes_of_the_unit_that_the_agents_have() -> None:
    metrics = Metrics(MemoryUnit.GiB)
    refusal = Refusal(pod("p", 10, requests=ASKS), ((Cause.CPU, 1),))
    snapshot = Snapshot((node("n1", 80, idle=BUSY),))
    metrics.decided(Decision(snapshot=snapshot, plan=Plan(refusals=(refusal,))), seconds=0.001)
    labels = {"node": "n1", "gpu": "0", "state": "stranded"}
    assert value(metrics, "mpslice_gpu_memory_bytes", **labels) == 80 * 2**30
