"""What a slice pod is completed with, and that nothing else is touched."""

import pytest

from tests.webhook.cases import (
    NOS,
    SCRATCH,
    SLICE,
    Manifest,
    adds,
    container,
    mount,
    pod,
    sysctl,
    user,
)
from tests.webhook.judging import mutate, validate
from webhook.offline import apply
from webhook.settings import DevShm, Enforcement, Settings
from webhook.verdicts import Reason

DEFAULT = Settings()
INJECTED = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
STRIP = Settings(dev_shm=DevShm.STRIP)


def completed(manifest: Manifest, settings: Settings = DEFAULT) -> Manifest:
    return dict(apply(manifest, mutate(manifest, settings)))


def test_bare_slice_pod_gets_host_ipc_the_user_no_escalation_and_the_gate() -> None:
    spec = completed(pod(container({SLICE: 1}, requests={SLICE: 1})))["spec"]
    assert spec["hostIPC"] is True
    assert spec["containers"][0]["securityContext"] == INJECTED
    assert spec["schedulingGates"] == [{"name": "mpslice.io/carve"}]


def test_what_was_injected_is_in_the_audit_annotation() -> None:
    assert mutate(pod(container({SLICE: 1}, requests={SLICE: 1})), DEFAULT).audit == {
        "injected": "/spec/hostIPC, /spec/containers/0/securityContext, /spec/schedulingGates"
    }


def test_complete_pod_without_the_gate_gets_an_empty_patch() -> None:
    closed = {"allowPrivilegeEscalation": False}
    manifest = pod(container({SLICE: 1}, requests={SLICE: 1}, securityContext=closed), **NOS)
    verdict = mutate(manifest, Settings(gate=False))
    assert (verdict.patch, verdict.audit) == ((), {})


@pytest.mark.parametrize(
    "manifest",
    [
        pod(container({"cpu": "1"})),
        pod(container({"nvidia.com/gpu": 1})),
        pod(container({SLICE: 0})),
        pod(container({"nvidia.com/gpu-10GB": 1})),
        pod(annotations={"kubernetes.io/config.mirror": "x"}),
    ],
    ids=["no gpu", "whole gpu", "count of none", "lookalike", "mirror pod"],
)
def test_pod_that_is_no_slice_pod_is_left_alone(manifest: Manifest) -> None:
    assert mutate(manifest, DEFAULT).patch == ()


@pytest.mark.parametrize("value", [None, False, "true", 1])
def test_host_ipc_is_set_whenever_it_is_not_true(value: object) -> None:
    assert completed(pod(hostIPC=value))["spec"]["hostIPC"] is True


def test_host_ipc_is_not_injected_where_the_agent_shares_memory_otherwise() -> None:
    assert "hostIPC" not in completed(pod(), Settings(host_ipc=False))["spec"]


def test_user_is_set_only_on_slice_containers_that_have_none() -> None:
    spec = completed(
        pod(
            container(name="a"),
            container(name="b", securityContext=user(7)),
            container({}, name="c"),
            container(name="d", securityContext={"privileged": False}),
        )
    )["spec"]
    users = [c.get("securityContext", {}).get("runAsUser") for c in spec["containers"]]
    assert users == [1000, 7, None, 1000]
    assert spec["containers"][3]["securityContext"]["privileged"] is False


def test_user_of_the_pod_is_good_enough() -> None:
    spec = completed(pod(securityContext=user(5)))["spec"]
    assert spec["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False}


@pytest.mark.parametrize(
    ("security", "stored"),
    [
        ({}, False),
        ({"allowPrivilegeEscalation": None}, False),
        ({"allowPrivilegeEscalation": False}, False),
        ({"allowPrivilegeEscalation": True}, True),
        ({"privileged": True}, None),
        (adds("CAP_SYS_ADMIN"), None),
        (adds("SYS_ADMIN"), False),
        (adds("NET_ADMIN"), False),
    ],
    ids=str,
)
def test_escalation_is_switched_off_where_unset_and_where_the_api_server_lets_it_be(
    security: Manifest, stored: bool | None
) -> None:
    manifest = pod(container(name="a", securityContext=security), container({}, name="b"))
    one, other = completed(manifest)["spec"]["containers"]
    assert one["securityContext"].get("allowPrivilegeEscalation") is stored
    assert "securityContext" not in other


@pytest.mark.parametrize(
    ("given", "stored"), [(None, "nvidia"), ("gvisor", "gvisor")], ids=["none", "its own"]
)
def test_runtime_class_of_the_settings_is_set_where_the_pod_has_none(
    given: str | None, stored: str
) -> None:
    settings = Settings(pod_runtime_class_name="nvidia")
    manifest = pod() if given is None else pod(runtimeClassName=given)
    assert completed(manifest, settings)["spec"]["runtimeClassName"] == stored
    assert "runtimeClassName" not in completed(pod())["spec"]
    assert "runtimeClassName" not in completed(pod(container({})), settings)["spec"]


def test_init_containers_are_completed_too() -> None:
    spec = completed(pod(container({}), init=(container(name="setup"),)))["spec"]
    assert spec["initContainers"][0]["securityContext"] == INJECTED


@pytest.mark.parametrize(
    "resources",
    [
        {"limits": {SLICE: "1"}},
        {"requests": {SLICE: "1"}},
        {"limits": {SLICE: "1"}, "requests": {"cpu": "1"}},
        {"limits": {"cpu": "1"}, "requests": {SLICE: "1"}},
        {"limits": {SLICE: "1"}, "requests": None},
    ],
)
def test_request_and_limit_complete_each_other(resources: Manifest) -> None:
    manifest = pod({"name": "main", "image": "none", "resources": resources})
    done = completed(manifest)["spec"]["containers"][0]["resources"]
    assert done["limits"][SLICE] == done["requests"][SLICE] == "1"
    kept = {k for side in resources.values() if side for k in side if k != SLICE}
    assert kept <= {*done["limits"], *done["requests"]}


def test_gate_is_added_beside_those_of_others_and_once() -> None:
    others = [{"name": "example.com/wait"}]
    once = completed(pod(schedulingGates=others))
    assert once["spec"]["schedulingGates"] == [*others, {"name": "mpslice.io/carve"}]
    assert completed(once) == once


def test_bound_pod_and_a_webhook_without_gates_get_no_gate() -> None:
    assert "schedulingGates" not in completed(pod(nodeName="n1"))["spec"]
    assert "schedulingGates" not in completed(pod(), Settings(gate=False))["spec"]


def test_only_add_operations_are_used() -> None:
    everything = pod(container(requests={SLICE: 1}), init=(container(name="i"),))
    patch = list(mutate(everything, DEFAULT).patch)
    assert {operation["op"] for operation in patch} == {"add"}


def test_strip_removes_the_mounts_over_shm_and_no_others() -> None:
    mounts = [
        {"name": "scratch", "mountPath": path}
        for path in ("/dev/shm", "/data", "/dev/shm/x", "/dev/shmem")
    ]
    manifest = pod(container(volumeMounts=mounts), volumes=SCRATCH)
    verdict = mutate(manifest, STRIP)
    left = completed(manifest, STRIP)["spec"]["containers"][0]["volumeMounts"]
    assert [m["mountPath"] for m in left] == ["/data", "/dev/shmem"]
    first, second = (w for w in verdict.warnings if w.startswith("DevShmStripped: "))
    assert "volumeMounts[0] at /dev/shm is taken away" in first
    assert "volumeMounts[2] at /dev/shm/x is taken away" in second


def test_mount_over_shm_stays_where_it_is_to_be_denied() -> None:
    manifest = pod(mount("/dev/shm"), volumes=SCRATCH)
    assert completed(manifest)["spec"]["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (pod(hostUsers=False), Reason.USER_NAMESPACE_CONFLICT),
        (pod(container({SLICE: "500m"})), Reason.INVALID_SLICE),
        (pod(container(requests={"nvidia.com/gpu-10GB": 1})), Reason.INVALID_SLICE),
        (pod(os={"name": "windows"}), Reason.UNSUPPORTED_POD),
        (pod(securityContext=sysctl("kernel.sem")), Reason.UNSUPPORTED_POD),
        (pod(container({SLICE: 2}, securityContext=user(0))), Reason.MULTIPLE_SLICES),
    ],
    ids=["user namespace", "fraction", "without a limit", "windows", "sysctl", "two violations"],
)
def test_what_the_api_server_would_answer_less_clearly_is_refused_here(
    manifest: Manifest, reason: Reason
) -> None:
    verdict = mutate(manifest, DEFAULT)
    assert (verdict.allowed, verdict.reason, verdict.patch) == (False, reason, ())
    assert verdict.audit == {"reason": reason}


def test_a_single_other_violation_is_left_to_validation() -> None:
    assert mutate(pod(container({SLICE: 2})), DEFAULT).allowed
    assert mutate(pod(container({"nvidia.com/gpu-10GB": 1})), DEFAULT).allowed


def test_with_enforcement_warn_a_refusal_becomes_a_warning_and_the_pod_is_completed() -> None:
    verdict = mutate(pod(hostUsers=False), Settings(enforcement=Enforcement.WARN))
    assert verdict.allowed
    assert verdict.patch
    assert verdict.warnings[0].startswith("UserNamespaceConflict: ")
    assert verdict.audit["reason"] == "UserNamespaceConflict"


@pytest.mark.parametrize(
    ("manifest", "missing"),
    [
        (pod(os={"name": "windows"}), ("hostIPC", "schedulingGates")),
        (pod(securityContext=sysctl("kernel.sem")), ("hostIPC",)),
        (pod(hostUsers=False), ("hostIPC",)),
    ],
    ids=["windows", "sysctl", "user namespace"],
)
def test_with_enforcement_warn_nothing_is_added_that_the_api_server_would_refuse(
    manifest: Manifest, missing: tuple[str, ...]
) -> None:
    warn = Settings(enforcement=Enforcement.WARN)
    spec = completed(manifest, warn)["spec"]
    assert [field for field in ("hostIPC", "schedulingGates") if field not in spec] == [*missing]
    warnings = validate({"spec": spec}, warn).warnings
    reasons = {warning.partition(":")[0] for warning in warnings}
    assert len(reasons & {"UnsupportedPod", "UserNamespaceConflict"}) == len(reasons) == 1


def test_what_yaml_aliases_share_is_patched_where_it_was_meant() -> None:
    shared: Manifest = {"privileged": False}
    manifest = pod(container(name="a"), container({}, name="b"))
    for each in manifest["spec"]["containers"]:
        each["securityContext"] = shared
    one, other = completed(manifest)["spec"]["containers"]
    assert (one["securityContext"]["runAsUser"], other["securityContext"]) == (1000, shared)
    assert "runAsUser" not in shared
