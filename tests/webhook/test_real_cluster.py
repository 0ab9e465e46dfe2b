"""Admission in a real API server beyond the table: updates, other webhooks, Pod Security, GPUs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.breaker import breaking
from tests.webhook.cases import SLICE, container, pod, user, workload
from tests.webhook.cluster import AUDIT_LOG, NAMESPACE, Installation, Replica, called, create


@pytest.fixture
def old_pod(installation: Installation) -> Iterator[str]:
    """A bad slice pod from before mpslice: `old`, with a finalizer."""
    installation.remove_admission()
    bad = pod(container({SLICE: 2}, securityContext=user(0)), hostIPC=False)
    made = called(bad, "old", finalizers=["example.com/wait"], labels={"app": "old"})
    create(installation, made, real=True)
    yield "old"
    patch = json.dumps({"metadata": {"finalizers": None}})
    installation.kubectl("patch", "pod", "old", "--type=merge", f"--patch={patch}")
    installation.kubectl(
        "delete", "pod", "old", "--force", "--grace-period=0", "--ignore-not-found"
    )


def test_pod_that_is_created_is_stored_complete(
    installation: Installation, serving: Replica
) -> None:
    stdout, _ = installation.kubectl(
        "create", "--dry-run=server", "--filename=-", "--output=json", objects=[pod()]
    )
    spec = json.loads(stdout)["spec"]
    assert spec["hostIPC"] is True
    assert spec["schedulingGates"] == [{"name": "mpslice.io/carve"}]
    security = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
    assert spec["containers"][0]["securityContext"] == security
    assert spec["containers"][0]["resources"] == {"limits": {SLICE: "1"}, "requests": {SLICE: "1"}}


def test_audit_log_says_what_was_injected_and_why_a_pod_was_refused(
    installation: Installation, serving: Replica
) -> None:
    lookalike = pod(container({"nvidia.com/gpu-10GB": 1}))
    create(installation, called(pod(), "audited-good"), called(lookalike, "audited-bad"))

    def logged() -> dict[str, dict[str, str]]:
        """By pod; an event may be written after the answer."""
        lines = (installation.folder / AUDIT_LOG).read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        found = {each["objectRef"].get("name"): each.get("annotations", {}) for each in events}
        return found if {"audited-good", "audited-bad"} <= found.keys() else {}

    found = wait_until(logged, "both are in the log", seconds=DEADLINE)
    injected = found["audited-good"]["mutate.pods.mpslice.io/injected"]
    assert injected.split(", ")[:2] == ["/spec/hostIPC", "/spec/containers/0/securityContext"]
    assert found["audited-bad"]["validate.pods.mpslice.io/reason"] == "InvalidSlice"


@pytest.mark.parametrize(
    "arguments",
    [
        ("label", "pod", "old", "new=label"),
        ("annotate", "pod", "old", "new=annotation"),
        ("patch", "pod", "old", "--type=merge", '--patch={"metadata":{"finalizers":null}}'),
        ("debug", "pod/old", "--image=none", "--attach=false", "--quiet"),
    ],
    ids=["label", "annotation", "finalizer", "debug"],
)
def test_old_bad_pod_can_still_be_changed(
    installation: Installation, old_pod: str, arguments: Sequence[str]
) -> None:
    installation.install()
    with installation.serving():
        done = installation.plane.kubectl(*arguments, check=False)
    assert (done.returncode, "Slice" in done.stderr) == (0, False), done.stderr


def test_old_bad_pod_can_be_changed_while_the_webhook_is_away(
    installation: Installation, old_pod: str
) -> None:
    installation.install()
    installation.publish([])
    wait_until(
        lambda: "mutate.pods" in create(installation, pod())[1],
        "the webhook is away",
        seconds=DEADLINE,
    )
    assert "labeled" in installation.kubectl("label", "pod", "old", "new=label")[0]


def test_debugging_a_slice_pod_warns_of_privilege_and_refuses_reserved_environment(
    installation: Installation, serving: Replica
) -> None:
    create(installation, called(pod(), "debugged"), real=True)
    try:
        debug = ("debug", "pod/debugged", "--image=none", "--attach=false", "--quiet")
        _, stderr = installation.kubectl(*debug, "--profile=sysadmin", "--container=privileged")
        assert 'Warning: PrivilegedSlice: container "privileged" (spec.ephemeral' in stderr
        _, stderr = installation.kubectl(*debug, "--env=NVIDIA_VISIBLE_DEVICES=all")
        assert 'admission webhook "validate.pods.mpslice.io" denied the request: Reserved' in stderr
        _, stderr = installation.kubectl(*debug, "--profile=general", "--container=plain")
        assert stderr == ""
    finally:
        installation.kubectl("delete", "pod", "debugged", "--force", "--grace-period=0")


def test_host_ipc_that_another_webhook_takes_away_is_given_back(
    installation: Installation, serving: Replica, tmp_path: Path
) -> None:
    with breaking(installation, tmp_path, "Never"):
        stdout = wait_until(
            lambda: _created_with_breaker(installation), "the pod is created", seconds=DEADLINE
        )
    assert json.loads(stdout)["spec"]["hostIPC"] is True


def _created_with_breaker(installation: Installation) -> str:
    return installation.kubectl(
        "create", "--dry-run=server", "--filename=-", "--output=json", objects=[pod()]
    )[0]


@pytest.mark.parametrize("policy", [True, False], ids=["by the policy", "by the webhook"])
def test_host_ipc_that_is_taken_away_again_is_refused(
    installation: Installation, tmp_path: Path, policy: bool
) -> None:
    installation.install(f"admission.policy.enabled={str(policy).lower()}")
    with installation.serving(), breaking(installation, tmp_path, "IfNeeded"):
        stderr = wait_until(
            lambda: create(installation, pod())[1], "it is refused", seconds=DEADLINE
        )
    assert (
        'HostIPCRequired: container "main" (spec.containers[0]): spec.hostIPC is not true, but a '
        "slice needs it; set it, or find the admission webhook that takes it away again"
    ) in stderr
    assert ("ValidatingAdmissionPolicy" in stderr) is policy


@pytest.fixture
def baseline(installation: Installation) -> str:
    """A namespace with Pod Security `baseline`."""
    label = {"pod-security.kubernetes.io/enforce": "baseline"}
    name = {"name": "guarded", "labels": label}
    installation.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": name}])
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    installation.apply([{**account, "metadata": {"name": "default", "namespace": "guarded"}}])
    return "guarded"


def test_pod_security_baseline_refuses_the_pod_and_the_template_warns_early(
    installation: Installation, serving: Replica, baseline: str
) -> None:
    _, stderr = create(installation, called(pod(), "p", baseline))
    assert 'violates PodSecurity "baseline:latest": host namespaces (hostIPC=true)' in stderr
    deployment = called(workload("Deployment", pod()), "w", baseline)
    stdout, stderr = create(installation, deployment)
    assert "deployment.apps/w created" in stdout
    assert (
        'PodSecurity: namespace guarded enforces Pod Security "baseline", which refuses the '
        "hostIPC that slice pods get. An administrator can label the namespace "
        "mpslice.io/pod-security=baseline-except-host-ipc and "
        "pod-security.kubernetes.io/enforce=privileged. Without the first label the second one "
        "lets everybody who creates pods there become root on the nodes"
    ) in stderr
    plain = called(workload("Deployment", pod(container({}))), "w", baseline)
    assert create(installation, plain)[1] == ""


def test_without_host_ipc_pod_security_baseline_lets_slices_pass(
    installation: Installation, baseline: str
) -> None:
    installation.install("mps.hostIPC=false")
    with installation.serving("--host-ipc=false"):
        stdout, stderr = create(
            installation,
            called(pod(), "p", baseline),
            called(workload("Deployment", pod()), "w", baseline),
        )
    assert stderr == ""
    assert "pod/p created" in stdout


def test_slice_larger_than_the_largest_gpu_of_a_labelled_node_is_warned_about(
    installation: Installation, serving: Replica
) -> None:
    layout = {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": {"name": "n1"},
        "spec": {},
    }
    gpu = {
        "uuid": "GPU-1",
        "index": 0,
        "product": "NVIDIA A100-SXM4-80GB",
        "memoryMiB": 81920,
        "capacityGB": 85,
        "healthy": True,
        "slices": [],
    }
    status = {"observedGeneration": 1, "gpus": [gpu], "conditions": []}
    big = pod(container({"nvidia.com/gpu-86gb": 1}))
    assert create(installation, big)[1] == ""
    installation.apply([layout])
    try:
        installation.plane.kubectl(
            "patch", "nodelayout", "n1", "--subresource=status", "--type=merge",
            f"--patch={json.dumps({'status': status})}",
        )  # fmt: skip
        stderr = wait_until(
            lambda: create(installation, big)[1], "it is warned about", seconds=DEADLINE
        )
        assert stderr.startswith("Warning: SliceTooLarge: ")
        assert "the largest GPU here offers 85gb" in stderr
        assert create(installation, pod(container({"nvidia.com/gpu-85gb": 1})))[1] == ""
    finally:
        installation.kubectl("delete", "nodelayout", "n1")
    wait_until(lambda: create(installation, big)[1] == "", "the GPU is forgotten", seconds=DEADLINE)


def test_without_rbac_for_the_secret_the_start_fails_in_one_line(
    installation: Installation,
) -> None:
    installation.install()
    name = {"name": "nobody", "namespace": NAMESPACE}
    installation.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name}])
    replica = installation.replica(account="nobody")
    replica.start()
    assert replica.process is not None
    assert replica.process.wait(DEADLINE) == 1
    (line,) = replica.log.read_text().splitlines()
    assert line.startswith("mpslice-webhook: cannot keep the certificate in the Secret mpslice-")
    assert "grant" in line
