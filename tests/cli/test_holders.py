"""`kubectl mpslice holders`: who holds which slice, told from NodeLayouts alone."""

from cli.holders import holders
from mpslice.gpus import DeviceId
from mpslice.nodelayout import GpuStatus, LayoutStatus, NodeLayout, SliceState, SliceStatus


def layout(name: str, *slices: SliceStatus) -> NodeLayout:
    gpu = DeviceId.parse("GPU-1::10::0").gpu
    status = GpuStatus(gpu, index=1, product="", memory_mib=81920, capacity_gb=85, slices=slices)
    return NodeLayout(name, status=LayoutStatus(gpus=(status,)))


def slice_(number: int, pod: str | None = None) -> SliceStatus:
    device = DeviceId.parse(f"GPU-1::10::{number}")
    return SliceStatus(device, 9533, SliceState.USED, pod, "main" if pod else None)


def free(number: int) -> SliceStatus:
    return SliceStatus(DeviceId.parse(f"GPU-1::20::{number}"), 19066, SliceState.FREE)


def test_each_used_slice_names_its_pod() -> None:
    found = holders(
        [layout("n2", slice_(0, "b/late")), layout("n1", free(0), slice_(1, "a/train"))]
    )
    assert [str(each) for each in found] == [
        "n1 GPU 1: 10gb is held by a/train main",
        "n2 GPU 1: 10gb is held by b/late main",
    ]


def test_holders_are_sorted_by_pod_whichever_slice_the_kubelet_gave_it() -> None:
    taken = (slice_(0, "b/third"), slice_(1, "b/first"), slice_(2, "a/second"))
    assert [each.pod for each in holders([layout("n1", *taken)])] == [
        "a/second",
        "b/first",
        "b/third",
    ]


def test_a_used_slice_counts_before_its_pod_is_known() -> None:
    (found,) = holders([layout("n1", slice_(0))])
    assert str(found) == "n1 GPU 1: 10gb is held by a container that is not known yet"


def test_one_node_can_be_asked_for() -> None:
    layouts = [layout("n1", slice_(0, "a/train")), layout("n2", slice_(0, "b/late"))]
    assert [each.node for each in holders(layouts, "n2")] == ["n2"]


def test_free_slices_and_nodes_without_status_hold_nobody_up() -> None:
    assert holders([layout("n1", free(0)), NodeLayout("n2")]) == []
