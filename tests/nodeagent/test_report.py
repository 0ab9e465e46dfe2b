"""What is written about the node: enough, no more, and never more than the kubelet knows."""

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.cluster.report import (
    Amount,
    NodeFacts,
    node_patch,
    node_resources,
    project_node,
    readiness,
    used_resources,
)
from nodeagent.hardware import Gpu, Refusal
from nodeagent.slices.evidence import Claim, Pods, Reading
from nodeagent.slices.pods import Need, PodFacts
from nodeagent.slices.table import SliceTable
from tests.nodeagent.conftest import AMPERE

A, B = GpuUuid("GPU-a"), GpuUuid("GPU-b")
TEN, TWENTY = SliceSize(10), SliceSize(20)


def slice_(size: int, ordinal: int = 0, uuid: GpuUuid = A) -> DeviceId:
    return DeviceId(uuid, SliceSize(size), ordinal)


@pytest.fixture
def table() -> SliceTable:
    gpus = [Gpu(uuid, n, "x", 81920, 0, AMPERE) for n, uuid in enumerate((A, B))]
    table = SliceTable(gpus)
    table.adopt([slice_(10), slice_(10, 1), slice_(10, 0, B)])
    return table


def test_new_slice_counts_once_the_kubelet_knows_it(table: SliceTable) -> None:
    table.carve([slice_(20)])
    assert node_resources(table)[TWENTY] == Amount(0, 0)
    table.confirm([slice_(20)])
    assert node_resources(table)[TWENTY] == Amount(1, 1)


def test_closed_slice_is_still_healthy_to_the_kubelet(table: SliceTable) -> None:
    """So a pod that was bound to it already is admitted, and the withdrawal given up."""
    table.close([slice_(10)])
    assert node_resources(table)[TEN] == Amount(3, 2)
    assert all(device.healthy for device in table.devices(TEN))


def test_retired_slice_is_listed_as_unhealthy_and_removed_one_not_at_all(
    table: SliceTable,
) -> None:
    table.close([slice_(10)])
    table.retire([slice_(10)])
    assert [device.healthy for device in table.devices(TEN)] == [False, True, True]
    table.remove([slice_(10)])
    assert len(table.devices(TEN)) == 2
    assert node_resources(table)[TEN] == Amount(2, 2)


def test_unhealthy_gpu_offers_nothing(table: SliceTable) -> None:
    sick = Gpu(B, 1, "x", 81920, 0, AMPERE, reason="XidError")
    table.put_gpus([table.gpus[A], sick])
    assert node_resources(table)[TEN] == Amount(3, 2)


def test_agent_that_goes_away_leaves_what_is_used(table: SliceTable) -> None:
    pods = Pods.of([PodFacts("ns/a", "uid", (Need("main", TEN),))])
    table.pods = lambda: pods
    gone = Claim(slice_(10, 0), "main", pod="ns/gone")
    table.read(Reading(1.0, (Claim(slice_(10, 1), "main", pod="ns/a"), gone)))
    table.allocate([slice_(10, 0, B)])  # and it is not known for which pod
    assert len(table.holders) == 3
    assert used_resources(table, pods)[TEN] == Amount(3, 1)


def test_patch_names_only_what_differs() -> None:
    node = NodeFacts(
        resources={TEN: Amount(1, 1), TWENTY: Amount(1, 1)},
        annotations={"nos.nebuly.com/status-gpu-0-10gb-free": "1"},
    )
    patch = node_patch(node, {TEN: Amount(2, 1), TWENTY: Amount(1, 1)}, node.annotations)
    assert patch == {
        "status": {
            "capacity": {"nvidia.com/gpu-10gb": "2"},
            "allocatable": {"nvidia.com/gpu-10gb": "1"},
        }
    }


def test_annotation_that_is_no_longer_true_is_taken_away() -> None:
    node = NodeFacts(annotations={"nos.nebuly.com/status-gpu-0-10gb-free": "1"})
    assert node_patch(node, {}, {}) == {
        "metadata": {"annotations": {"nos.nebuly.com/status-gpu-0-10gb-free": None}}
    }


def test_nothing_to_say_is_no_patch() -> None:
    node = NodeFacts(resources={TEN: Amount(1, 1)})
    assert node_patch(node, {TEN: Amount(1, 1)}, {}) == {}


def test_node_is_read_for_our_resources_and_annotations_only() -> None:
    node = {
        "metadata": {
            "uid": "u",
            "resourceVersion": "17",
            "annotations": {"nos.nebuly.com/status-gpu-0-10gb-free": "1", "other": "x"},
        },
        "status": {
            "capacity": {"cpu": "2", "nvidia.com/gpu": "1", "nvidia.com/gpu-10gb": "2"},
            "allocatable": {"nvidia.com/gpu-10gb": "1"},
        },
    }
    assert project_node(node) == NodeFacts(
        "u", 17, {TEN: Amount(2, 1)}, {"nos.nebuly.com/status-gpu-0-10gb-free": "1"}
    )


def refused(index: int, *reasons: str) -> list[Gpu]:
    """GPUs that are left alone for these reasons, the first with that index."""
    return [
        Gpu(GpuUuid(f"GPU-{n}"), n, "x", 81920, 0, AMPERE, refusal=Refusal(reason, f"of {reason}"))
        for n, reason in enumerate(reasons, start=index)
    ]


def test_node_is_ready_while_one_gpu_is_ours(table: SliceTable) -> None:
    gpus = list(table.gpus.values())
    assert readiness(gpus, "").message == ""
    condition = readiness([*gpus, *refused(2, "MigMode")], "")
    assert condition.status
    assert condition.message == "GPU 2 is left alone: of MigMode"


def test_node_without_a_gpu_of_ours_is_not_ready_and_says_why() -> None:
    assert readiness(refused(0, "MigMode", "MigMode"), "").reason == "MigMode"
    mixed = readiness(refused(0, "MigMode", "Excluded"), "")
    assert (mixed.status, mixed.reason) == (False, "GpusRefused")
    nos = readiness(refused(0, "MigMode", "ForeignPartitioner"), "nos runs here")
    assert (nos.status, nos.reason, nos.message) == (False, "ForeignPartitioner", "nos runs here")
