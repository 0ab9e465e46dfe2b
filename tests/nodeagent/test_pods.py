"""What a pod asks for, and whether it may yet arrive."""

from typing import Any

import pytest

from mpslice.slices import SliceSize
from nodeagent.slices.pods import IN_HAND_SECONDS, Need, PodFacts, project_pod
from tests.nodeagent.conftest import pod_manifest

CREATED = 1767225600.0  # 2026-01-01T00:00:00Z


def facts(pod: dict[str, Any]) -> PodFacts:
    pod["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
    found = project_pod(pod)
    assert found is not None
    return found


def test_pod_without_slices_is_nobody() -> None:
    pod = pod_manifest("a", 10)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1", "nvidia.com/gpu": "1"}}
    assert project_pod(pod) is None


@pytest.mark.parametrize("quantity", ["0", "nonsense"])
def test_slice_that_is_not_asked_for_is_none(quantity: str) -> None:
    pod = pod_manifest("a", 10)
    pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = quantity
    assert project_pod(pod) is None


def test_init_containers_need_too() -> None:
    pod = pod_manifest("a", 10)
    pod["spec"]["initContainers"] = pod_manifest("b", 5)["spec"]["containers"]
    pod["spec"]["initContainers"][0]["name"] = "init"
    assert facts(pod).needs == (Need("init", SliceSize(5)), Need("main", SliceSize(10)))


def test_mirror_pod_has_the_uid_that_the_kubelet_knows() -> None:
    pod = pod_manifest("a", 10)
    pod["metadata"] |= {"uid": "api", "annotations": {"kubernetes.io/config.mirror": "kubelet"}}
    assert facts(pod).uid == "kubelet"


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "UnexpectedAdmissionError"),
        ({"phase": "Failed", "reason": "TopologyAffinityError"}, "TopologyAffinityError"),
        ({"phase": "Failed", "reason": "OutOfnvidia.com/gpu-10gb"}, "OutOfnvidia.com/gpu-10gb"),
        ({"phase": "Failed", "reason": "Evicted"}, ""),
        ({"phase": "Running"}, ""),
    ],
)
def test_refusal_of_the_kubelet_is_told_from_other_failures(
    status: dict[str, str], refusal: str
) -> None:
    assert pending(**status).refusal == refusal


def pending(**changes: Any) -> PodFacts:
    pod = pod_manifest("a", 10)
    pod["spec"] |= changes.pop("spec", {})
    pod["status"] |= changes
    return facts(pod)


def unschedulable() -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {"conditions": [condition]}


def test_ungated_pod_without_a_verdict_is_on_its_way() -> None:
    assert pending().on_its_way_to("n1", CREATED + 1, old_status=False)


def test_pod_is_not_waited_for_for_ever() -> None:
    assert not pending().on_its_way_to("n1", CREATED + IN_HAND_SECONDS + 1, old_status=False)


def test_late_ungating_starts_the_clock_anew() -> None:
    """The condition SchedulingGated stays what it was; only who wrote the pod last tells of it."""
    pod = pod_manifest("a", 10)
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    ]
    pod["metadata"]["managedFields"] = [
        {"manager": "kubectl", "operation": "Update", "time": "2026-01-01T00:00:00Z"},
        {"manager": "planner", "operation": "Update", "time": "2026-01-01T01:00:00Z"},
        {"manager": "kubelet", "subresource": "status", "time": "2026-01-01T02:00:00Z"},
    ]
    assert facts(pod).on_its_way_to("n1", CREATED + 3600 + 1, old_status=False)
    assert not facts(pod).on_its_way_to(
        "n1", CREATED + 3600 + IN_HAND_SECONDS + 1, old_status=False
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"schedulingGates": [{"name": "mpslice.io/carve"}]}},
        {"spec": {"nodeName": "n2"}},
        {"phase": "Failed"},
        unschedulable(),
    ],
)
def test_pods_that_cannot_come_by_an_old_decision(changes: dict[str, Any]) -> None:
    assert not pending(**changes).on_its_way_to("n1", CREATED + 1, old_status=False)


def test_unschedulable_pod_is_on_its_way_while_the_scheduler_may_go_by_an_old_status() -> None:
    """It decides anew when a status offers more, and tells nobody before it binds the pod."""
    assert pending(**unschedulable()).on_its_way_to("n1", CREATED + 1, old_status=True)


def test_nominated_pod_with_a_verdict_is_on_its_way_to_that_node_only() -> None:
    pod = pending(nominatedNodeName="n1", **unschedulable())
    assert pod.on_its_way_to("n1", CREATED + 10_000, old_status=False)
    assert not pod.on_its_way_to("n2", CREATED + 1, old_status=False)


def test_pod_with_a_verdict_may_come_by_an_old_status_though_another_node_is_nominated() -> None:
    """It is nominated where its slices are still to come, and tries other nodes until then."""
    pod = pending(nominatedNodeName="n1", **unschedulable())
    assert pod.on_its_way_to("n2", CREATED + 1, old_status=True)


def test_pod_that_is_nominated_to_another_node_may_come_by_an_older_decision() -> None:
    pod = pending(nominatedNodeName="n1")
    assert pod.on_its_way_to("n2", CREATED + 1, old_status=False)
    assert not pod.on_its_way_to("n2", CREATED + IN_HAND_SECONDS + 1, old_status=False)


def test_scheduler_that_is_behind_may_take_this_node_though_another_is_nominated() -> None:
    """It sees the nodes as they were, so not the slice on the other one."""
    pod = pending(nominatedNodeName="n1", **unschedulable())
    assert pod.on_its_way_to("n2", CREATED + 1, old_status=False, behind=True)
    assert pending().on_its_way_to("n2", CREATED + 3600, old_status=False, behind=True)
    free = pending(**unschedulable())
    assert free.on_its_way_to("n2", CREATED + 1, old_status=False, behind=True)


def test_pod_that_had_its_gate_when_it_was_nominated_elsewhere_comes_by_an_old_status_alone() -> (
    None
):
    """No scheduler has decided on it before, but one that its node fails tries others at once."""
    pod = pod_manifest("a", 10)
    pod["status"]["nominatedNodeName"] = "n1"
    comes = {
        '{"nominated":"n1"}': False,
        '{"nominated":"n1","late":true}': True,
        '{"nominated":"n3"}': True,  # somebody else has nominated it since
        '["nominated"]': True,
        "nonsense": True,
    }
    for text, expected in comes.items():
        pod["metadata"]["annotations"] = {"mpslice.io/progress": text}
        assert facts(pod).on_its_way_to("n2", CREATED + 1, old_status=False) is expected, text
        assert facts(pod).on_its_way_to("n2", CREATED + 1, old_status=True)
        assert facts(pod).on_its_way_to("n1", CREATED + 1, old_status=False)


@pytest.mark.parametrize("time", ["0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "", "x"])
def test_time_that_is_none_is_read_as_none(time: str) -> None:
    """The API server takes managedFields as they are sent (ValidateManagedFields)."""
    pod = pod_manifest("a", 10)
    pod["metadata"]["managedFields"] = [{"manager": "me", "operation": "Update", "time": time}]
    assert facts(pod).waiting_since == CREATED


def test_pod_of_a_time_that_is_still_to_come_is_not_waited_for() -> None:
    pod = pod_manifest("a", 10)
    pod["metadata"]["managedFields"] = [{"manager": "me", "time": "9999-01-01T00:00:00Z"}]
    assert not facts(pod).on_its_way_to("n1", CREATED + 1, old_status=False)


def test_mirror_of_a_static_pod_has_been_admitted_before_it_was_made() -> None:
    """So nobody keeps slices from being withdrawn by making one that no kubelet knows of."""
    pod = pod_manifest("a", 10)
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert facts(pod).admitted


def test_pod_that_cannot_be_read_concerns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """No API server has such pods; should one come, the agent goes on."""
    pod = pod_manifest("a", 10)
    pod["spec"]["containers"] = 5
    assert project_pod(pod) is None
    assert "could not be read" in caplog.text
