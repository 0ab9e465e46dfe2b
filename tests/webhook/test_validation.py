"""Validation beyond the table: facts, UPDATE, debugging containers, enforcement, long names."""

import time
from copy import deepcopy

import pytest

from tests.webhook.cases import (
    NOS,
    PODS,
    SLICE,
    Case,
    Manifest,
    container,
    env,
    pod,
    user,
    workload,
)
from tests.webhook.judging import advise, mutate, validate
from webhook.settings import Enforcement, PrivilegeEscalation, Settings, TooLarge
from webhook.verdicts import LONGEST_WARNING, Reason

DEFAULT = Settings()
GATED = [{"name": "mpslice.io/carve"}]
CLOSED = {"allowPrivilegeEscalation": False}


def big(gb: int = 200) -> Manifest:
    return pod(container({f"nvidia.com/gpu-{gb}gb": 1}, securityContext=CLOSED), **NOS)


def debugged(manifest: Manifest, **fields: object) -> Manifest:
    """The pod with a debugging container, as `kubectl debug` leaves it."""
    copy = deepcopy(manifest)
    copy["spec"]["ephemeralContainers"] = [{"name": "debugger", "image": "none", **fields}]
    return copy


def test_slice_larger_than_every_gpu_is_a_warning_by_default() -> None:
    verdict = validate(big(), DEFAULT, largest=150)
    assert verdict.allowed
    (warning,) = verdict.warnings
    assert warning == (
        'SliceTooLarge: container "main" (spec.containers[0]): resources.limits asks for '
        "nvidia.com/gpu-200gb: 1, but the largest GPU here offers 150gb; ask for "
        "nvidia.com/gpu-150gb or less, or add a larger GPU"
    )


def test_slice_larger_than_every_gpu_is_refused_where_wanted() -> None:
    verdict = validate(big(), Settings(too_large=TooLarge.DENY), largest=150)
    assert verdict.reason is Reason.SLICE_TOO_LARGE


@pytest.mark.parametrize("largest", [None, 200, 300])
def test_slice_that_may_fit_is_fine(largest: int | None) -> None:
    verdict = validate(big(), Settings(too_large=TooLarge.DENY), largest=largest)
    assert (verdict.allowed, verdict.warnings) == (True, ())


@pytest.mark.parametrize("value", [None, False])
def test_pod_that_lost_its_host_ipc_is_refused(value: object) -> None:
    manifest = pod(hostIPC=value, securityContext=user(1000), schedulingGates=GATED)
    verdict = validate(manifest, DEFAULT)
    assert verdict.reason is Reason.HOST_IPC_REQUIRED
    assert "find the admission webhook that takes it away again" in verdict.message
    assert validate(manifest, Settings(host_ipc=False)).allowed


LATE = (
    'container "main" (spec.containers[0]): resources.limits asks for nvidia.com/gpu-10gb: 1, but '
    "mpslice's mutating webhook was not asked about it; a webhook that adds slices has to run "
    'before it: name its configuration to sort before "mpslice-pods", or ask for the slice in the '
    "manifest"
)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, Settings()),
        ({"schedulingGates": [{"name": "example.com/wait"}]}, Settings()),
        ({"nodeName": "n1"}, Settings()),
        ({}, Settings(gate=False)),
        ({}, Settings(privilege_escalation=PrivilegeEscalation.DENY)),
        ({"securityContext": user(1000)}, Settings()),
        ({}, Settings(host_ipc=False)),
        ({}, Settings(host_ipc=False, gate=False)),
    ],
    ids=str,
)
def test_slice_that_another_webhook_added_after_ours_hears_just_that(
    fields: Manifest, settings: Settings
) -> None:
    reason = "HostIPCRequired" if settings.host_ipc else "RunAsUserMismatch"
    assert validate(pod(**fields), settings).message == f"{reason}: {LATE}"


def test_slice_added_late_to_a_container_that_names_the_user_is_judged_by_what_it_has() -> None:
    manifest = pod(securityContext=user(1000))
    for gate in (True, False):
        settings = Settings(
            host_ipc=False, gate=gate, privilege_escalation=PrivilegeEscalation.DENY
        )
        assert validate(manifest, settings).reason is Reason.PRIVILEGE_ESCALATION


def test_update_of_a_pod_that_lost_its_gate_is_not_taken_for_a_slice_added_late() -> None:
    """As of a pod from before `mps.hostIPC: true`, which the planner lets go."""
    new = pod(securityContext=user(1000))
    assert validate(
        new, DEFAULT, old=pod(securityContext=user(1000), schedulingGates=GATED)
    ).allowed


def test_more_violations_than_a_refusal_tells_are_said_to_be_there() -> None:
    verdict = validate(pod(*(container({SLICE: 2}, name=f"c{i}") for i in range(50))), DEFAULT)
    *told, last = verdict.message.splitlines()
    assert len(told) == 8
    assert last == "There are more than these 8; mend them first."
    assert verdict.reason is Reason.MULTIPLE_SLICES


def test_pod_with_very_many_containers_is_refused_before_they_are_looked_at() -> None:
    """Bounded by work and not by time: those beyond the limit are not read."""
    read = [container({}, name=f"c{i}") for i in range(1001)]
    manifest = pod(*read)
    manifest["spec"]["containers"] += [Unreadable() for _ in range(5000)]
    for verdict in (mutate(manifest, DEFAULT), validate(manifest, DEFAULT)):
        assert verdict.reason is Reason.UNSUPPORTED_POD
        assert 'container "c1000" (spec.containers[1000])' in verdict.message
    template = workload("Deployment", pod())
    template["spec"]["template"]["spec"]["containers"] = manifest["spec"]["containers"]
    assert advise(template, "Deployment", DEFAULT).warnings[0].startswith("UnsupportedPod: ")


@pytest.mark.parametrize(
    "fields",
    [
        {"env": [{"name": "A"}] * 10_000},
        {"volumeMounts": [{"mountPath": "/a"}] * 10_000},
        {"resources": {"limits": {f"nvidia.com/gpu-{i}gb": 1 for i in range(10_001)}}},
    ],
    ids=["env", "mounts", "resources"],
)
def test_pod_with_very_many_entries_is_refused_before_they_are_judged(fields: Manifest) -> None:
    manifest = pod(container({SLICE: 1}, name="a"), {**container(name="b"), **fields})
    verdict = validate(manifest, DEFAULT)
    assert verdict.reason is Reason.UNSUPPORTED_POD
    assert verdict.message.startswith('UnsupportedPod: container "b" (spec.containers[1]): a pod')


@pytest.mark.parametrize("path", ["/a" * 500_000, "/run/mpslice" + "/a" * 500_000, "/" * 10**6])
def test_path_of_a_volume_is_read_once_however_many_mounts_it_has(path: str) -> None:
    """2,000 mounts of a path of 1 MB are 2 GB to read, if each mount reads it: half a minute."""
    mounts = [{"name": "host", "mountPath": "/host", "subPath": "x"}] * 2_000
    manifest = pod(
        container(volumeMounts=mounts), volumes=[{"name": "host", "hostPath": {"path": path}}]
    )
    started = time.process_time()
    mutate(manifest, DEFAULT)
    validate(manifest, DEFAULT, old=manifest)
    assert time.process_time() - started < 2


def test_old_pod_with_very_many_containers_can_still_be_changed() -> None:
    manifest = pod(*(container({}, name=f"c{i}") for i in range(1001)), container())
    assert validate(manifest, DEFAULT, old=manifest).allowed


class Unreadable(dict[str, object]):
    """An object that may be counted, and not looked into."""

    def get(self, *_: object) -> object:
        raise AssertionError("it is looked into")


def test_pod_that_lost_its_user_is_refused() -> None:
    verdict = validate(pod(hostIPC=True), DEFAULT)
    assert verdict.reason is Reason.RUN_AS_USER_MISMATCH
    assert "securityContext.runAsUser is not set" in verdict.message


def test_first_violation_in_the_order_of_the_contract_is_told() -> None:
    both = pod(
        container({SLICE: 1}, name="b", securityContext=user(0)),
        container({SLICE: 2}, name="c"),
        init=(container({"nvidia.com/gpu-0gb": 1}, name="a"),),
    )
    assert validate(both, DEFAULT).reason is Reason.MULTIPLE_SLICES


def test_init_containers_come_first_within_a_rule() -> None:
    wrong = container(name="app", securityContext=user(0))
    first = container(name="setup", securityContext=user(0))
    verdict = validate(pod(wrong, init=(first,), hostIPC=True), DEFAULT)
    assert 'container "setup" (spec.initContainers[0])' in verdict.message


@pytest.mark.parametrize("case", [case for case in PODS if case.reason], ids=str)
def test_update_never_refuses_what_it_does_not_change(case: Case) -> None:
    labelled = deepcopy(case.manifest)
    labelled["metadata"].update(labels={"new": "label"}, finalizers=[])
    verdict = validate(labelled, DEFAULT, old=case.manifest, largest=1)
    assert (verdict.allowed, verdict.warnings, verdict.audit) == (True, (), {})


def test_update_that_makes_a_pod_bad_is_refused() -> None:
    good = pod(**NOS)
    bad = pod(container(env=env("NVIDIA_VISIBLE_DEVICES")), **NOS)
    assert validate(bad, DEFAULT, old=good).reason is Reason.RESERVED_ENVIRONMENT


def test_debugging_a_slice_pod_is_allowed_as_any_user() -> None:
    old = pod(**NOS)
    new = debugged(old, securityContext=user(0))
    assert validate(new, DEFAULT, old=old).allowed


def test_privileged_debugging_of_a_slice_pod_is_worth_a_warning() -> None:
    old = pod(**NOS)
    verdict = validate(debugged(old, securityContext={"privileged": True}), DEFAULT, old=old)
    assert verdict.allowed
    assert [warning.partition(":")[0] for warning in verdict.warnings] == ["PrivilegedSlice"]
    assert 'container "debugger" (spec.ephemeralContainers[0])' in verdict.warnings[0]


def test_debugging_container_cannot_reach_the_gpu_past_the_slice() -> None:
    old = pod(**NOS)
    new = debugged(old, env=env("CUDA_MPS_PIPE_DIRECTORY"))
    assert validate(new, DEFAULT, old=old).reason is Reason.RESERVED_ENVIRONMENT


def test_debugging_container_of_an_old_bad_pod_is_judged_by_itself() -> None:
    old = pod(container({SLICE: 2}))
    assert validate(debugged(old), DEFAULT, old=old).allowed


def test_debugging_a_pod_without_slices_is_not_our_business() -> None:
    old = pod(container({}))
    new = debugged(old, env=env("NVIDIA_VISIBLE_DEVICES"), securityContext={"privileged": True})
    verdict = validate(new, DEFAULT, old=old)
    assert (verdict.allowed, verdict.warnings) == (True, ())


def test_mirror_pod_is_left_alone() -> None:
    manifest = pod(container({SLICE: 2}), annotations={"kubernetes.io/config.mirror": "x"})
    assert validate(manifest, DEFAULT).allowed


def test_with_enforcement_warn_every_refusal_becomes_a_warning_that_is_audited() -> None:
    bad = pod(container({SLICE: 2}, securityContext=user(0) | CLOSED), hostIPC=True)
    verdict = validate(bad, Settings(enforcement=Enforcement.WARN))
    topics = [warning.partition(":")[0] for warning in verdict.warnings]
    assert (verdict.allowed, verdict.reason) == (True, Reason.MULTIPLE_SLICES)
    assert topics == ["MultipleSlices", "RunAsUserMismatch"]
    assert verdict.audit == {"reason": "MultipleSlices"}


def test_warning_with_long_names_still_fits() -> None:
    long = pod(
        container(
            {f"nvidia.com/gpu-{'0' * 200}gb": 1, SLICE: 1},
            name="n" * 63,
            securityContext={"privileged": True},
        ),
        **NOS,
    )
    verdict = validate(long, Settings(enforcement=Enforcement.WARN))
    assert len(verdict.warnings) == 2
    assert all(len(warning) <= LONGEST_WARNING for warning in verdict.warnings)


def test_warnings_of_a_large_pod_stay_within_what_the_api_server_passes_on() -> None:
    many = [container({SLICE: 2}, name=f"c{index}") for index in range(100)]
    verdict = validate(pod(*many, **NOS), Settings(enforcement=Enforcement.WARN))
    assert sum(len(warning) for warning in verdict.warnings) <= 4096


def test_workload_that_another_one_owns_is_not_warned_about() -> None:
    owned = workload("ReplicaSet", pod(container({SLICE: 2})))
    assert advise(owned, "ReplicaSet", DEFAULT).warnings
    owned["metadata"]["ownerReferences"] = [{"kind": "Deployment", "controller": True}]
    assert not advise(owned, "ReplicaSet", DEFAULT).warnings


def test_workload_is_never_refused_and_judged_as_its_pods_will_be() -> None:
    verdict = advise(workload("Deployment", big(900)), "Deployment", DEFAULT, largest=80)
    assert verdict.allowed
    assert [warning.partition(":")[0] for warning in verdict.warnings] == ["SliceTooLarge"]


def test_update_of_a_workload_repeats_no_warning() -> None:
    old = workload("Deployment", pod(container({SLICE: 2})))
    new = deepcopy(old)
    new["spec"]["replicas"] = 3
    assert not advise(new, "Deployment", DEFAULT, old=old).warnings
