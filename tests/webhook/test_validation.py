"""Validation beyond the table: facts, UPDATE, debugging containers, enforcement, long names."""

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
from webhook.policy import advise, validate
from webhook.settings import Enforcement, Settings, TooLarge
from webhook.verdicts import LONGEST_WARNING, Reason

DEFAULT = Settings()


def big(gb: int = 200) -> Manifest:
    return pod(container({f"nvidia.com/gpu-{gb}gb": 1}), **NOS)


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
    manifest = pod(hostIPC=value, securityContext=user(1000))
    verdict = validate(manifest, DEFAULT)
    assert verdict.reason is Reason.HOST_IPC_REQUIRED
    assert validate(manifest, Settings(host_ipc=False)).allowed


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
    bad = pod(container({SLICE: 2}, securityContext=user(0)), hostIPC=True)
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
