"""The NodeLayout codec: what is written is read back, what is wrong is named."""

from typing import Any

import pytest

from mpslice.errors import InvalidNodeLayout
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuSpec,
    GpuStatus,
    LayoutSpec,
    LayoutStatus,
    NodeLayout,
    SliceState,
    SliceStatus,
    merge_conditions,
    parse_node_layout,
    spec_to_json,
    status_to_json,
)
from mpslice.slices import SliceSize

GPU = GpuUuid("GPU-5f2c")


def a_layout() -> NodeLayout:
    used = SliceStatus(
        DeviceId(GPU, SliceSize(10), 0), 9530, SliceState.USED, "team-a/train-0", "main"
    )
    free = SliceStatus(DeviceId(GPU, SliceSize(10), 1), 9530, SliceState.FREE)
    gpu = GpuStatus(GPU, 0, "NVIDIA H200", 143771, 150, slices=(used, free))
    ready = Condition(ConditionType.READY, True, "Serving", "", "2026-01-01T00:00:00Z")
    return NodeLayout(
        name="n1",
        spec=LayoutSpec((GpuSpec(GPU, {SliceSize(10): 2, SliceSize(20): 1}),)),
        status=LayoutStatus(7, (gpu,), (ready,)),
        generation=7,
        resource_version="42",
        uid="u",
    )


def as_json(layout: NodeLayout) -> dict[str, Any]:
    assert layout.status is not None
    return {
        "metadata": {"name": "n1", "generation": 7, "resourceVersion": "42", "uid": "u"},
        "spec": spec_to_json(layout.spec),
        "status": status_to_json(layout.status),
    }


def test_layout_is_read_back_as_it_was_written() -> None:
    assert parse_node_layout(as_json(a_layout())) == a_layout()


def test_summary_counts_gb() -> None:
    assert as_json(a_layout())["status"]["summary"] == {
        "gpus": 1,
        "capacityGB": 150,
        "usedGB": 10,
        "freeGB": 140,
    }


def test_new_object_has_no_status_yet() -> None:
    layout = parse_node_layout({"metadata": {"name": "n1"}, "spec": {}})
    assert layout == NodeLayout("n1")


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("spec", "gpus", 0, "slices"), {"10gib": 1}, "is not <N>gb: count"),
        (("spec", "gpus", 0, "slices"), {"10gb": -1}, "is not <N>gb: count"),
        (("spec", "gpus", 0, "slices"), {"10gb": True}, "is not <N>gb: count"),
        (("spec", "gpus"), [{"slices": {}}], "field 'uuid' is missing"),
        (("spec", "gpus"), [{"uuid": "A"}, {"uuid": "A"}], "A is listed twice"),
        (("status", "gpus", 0, "slices", 1, "id"), "GPU-5f2c::10::0", "is listed twice"),
        (("status", "gpus", 0, "slices", 1, "id"), "GPU-other::10::1", "of another GPU"),
        (("status", "gpus", 0, "slices", 1, "id"), "nonsense", "is not <GPU UUID>"),
        (
            ("status", "gpus", 0, "slices", 1, "state"),
            "Lent",
            "a field has another type than in the CRD",
        ),
        (("status", "gpus", 0, "memoryMiB"), "much", "a field has another type than in the CRD"),
        (("status", "gpus", 0, "slices", 0, "pod"), ["a"], "which is no text"),
    ],
)
def test_contradiction_is_named_with_the_node(path: Any, value: Any, complaint: str) -> None:
    obj: Any = as_json(a_layout())
    place = obj
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidNodeLayout, match=complaint) as caught:
        parse_node_layout(obj)
    assert str(caught.value).startswith("NodeLayout n1: ")


def test_condition_keeps_its_time_until_its_status_changes() -> None:
    old = (Condition(ConditionType.READY, True, "Serving", "", "then"),)
    same = Condition(ConditionType.READY, True, "Other", "text")
    other = Condition(ConditionType.READY, False, "Stopping")
    assert merge_conditions(old, (same,), now="now")[0].last_transition_time == "then"
    assert merge_conditions(old, (other,), now="now")[0].last_transition_time == "now"
