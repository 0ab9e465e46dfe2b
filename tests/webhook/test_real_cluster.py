"""Admission in a real API server beyond the table: updates, other webhooks, outages, namespaces."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hack.cluster.waiting import wait_until
from mpslice.slices import looks_like_slice
from tests.webhook.breaker import breaking
from tests.webhook.cases import NOS, SLICE, Manifest, container, pod, user, workload
from tests.webhook.cluster import AUDIT_LOG, NAMESPACE, Installation, Replica

BAD = pod(container({SLICE: 2}))


def called(
    manifest: Manifest, name: str, namespace: str = "default", **metadata: object
) -> Manifest:
    return {**manifest, "metadata": {"name": name, "namespace": namespace, **metadata}}


def create(installation: Installation, *objects: Manifest, real: bool = False) -> tuple[str, str]:
    dry = () if real else ("--dry-run=server",)
    return installation.kubectl("create", *dry, "--filename=-", objects=objects)


@pytest.fixture
def serving(installation: Installation) -> Iterator[Replica]:
    """The chart with its default values, and a replica."""
    installation.install()
    with installation.serving() as replica:
        yield replica


@pytest.fixture
def silent(installation: Installation) -> None:
    """The chart with its default values, and no replica at all."""
    installation.install()
    installation.publish([])


@pytest.fixture
def old_pod(installation: Installation) -> Iterator[str]:
    """A bad slice pod from before mpslice: `old`, with a finalizer."""
    for kind in (
        "mutatingwebhookconfiguration",
        "validatingwebhookconfiguration",
        "validatingadmissionpolicybinding",
    ):
        installation.plane.kubectl("delete", kind, "mpslice-pods", "--ignore-not-found")
    bad = pod(container({SLICE: 2}, securityContext=user(0)), hostIPC=False)
    made = called(bad, "old", finalizers=["example.com/wait"], labels={"app": "old"})
    # The API server takes a moment to forget a policy.
    wait_until(
        lambda: create(installation, made)[0],
        "the API server takes the bad pod",
        seconds=20,
    )
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
    assert spec["containers"][0]["securityContext"] == {"runAsUser": 1000}
    assert spec["containers"][0]["resources"] == {"limits": {SLICE: "1"}, "requests": {SLICE: "1"}}


def test_audit_log_says_what_was_injected_and_why_a_pod_was_refused(
    installation: Installation, serving: Replica
) -> None:
    lookalike = pod(container({"nvidia.com/gpu-10GB": 1}))
    create(installation, called(pod(), "audited-good"), called(lookalike, "audited-bad"))
    found = {
        event["objectRef"].get("name"): event.get("annotations", {})
        for event in map(json.loads, (installation.folder / AUDIT_LOG).read_text().splitlines())
    }
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
        lambda: "mutate.pods" in create(installation, pod())[1], "the webhook is away", seconds=20
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
            lambda: _created_with_breaker(installation), "the pod is created", seconds=20
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
        stderr = wait_until(lambda: create(installation, pod())[1], "it is refused", seconds=20)
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
        "hostIPC that slice pods get; label it pod-security.kubernetes.io/enforce=privileged, or "
        "use another namespace"
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


def test_system_and_own_namespaces_are_left_alone(installation: Installation, silent: None) -> None:
    bad = [called(BAD, "p", namespace) for namespace in ("kube-system", NAMESPACE)]
    accounts = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }
        for namespace in ("kube-system", NAMESPACE)
    ]
    installation.apply(accounts)
    stdout, stderr = create(installation, *bad)
    assert (stdout.count("created"), stderr) == (2, "")


def test_outage_stops_slice_pods_by_name_and_nothing_else(
    installation: Installation, silent: None
) -> None:
    stdout, stderr = create(
        installation,
        called(pod(container({})), "plain"),
        called(pod(container({"nvidia.com/gpu": 1})), "whole"),
        called(pod(), "slice"),
        called(workload("Deployment", pod()), "workload"),
    )
    assert "pod/plain created" in stdout
    assert "pod/whole created" in stdout
    assert "deployment.apps/workload created" in stdout
    assert 'failed calling webhook "mutate.pods.mpslice.io"' in stderr
    assert "pod/slice created" not in stdout


def test_mirror_pod_needs_no_webhook(installation: Installation, silent: None) -> None:
    mirror = {"kubernetes.io/config.mirror": "x"}
    _, with_annotation = create(
        installation, called(pod(nodeName="n1", **NOS), "mirror", annotations=mirror)
    )
    _, without = create(installation, called(pod(nodeName="n1", **NOS), "mirror"))
    assert "mutate.pods.mpslice.io" in without
    assert "mpslice.io" not in with_annotation


def test_policy_holds_while_the_webhook_is_away(installation: Installation) -> None:
    installation.install("admission.failurePolicy=Ignore")
    installation.publish([])
    try:
        stdout = wait_until(
            lambda: create(installation, called(pod(**NOS), "good"))[0],
            "Ignore is known",
            seconds=20,
        )
        assert "pod/good created" in stdout
        _, stderr = create(
            installation,
            called(pod(container({SLICE: 2}), **NOS), "two"),
            called(pod(securityContext=user(1000)), "no-ipc"),
            called(pod(container(securityContext=user(0)), **NOS), "root"),
        )
        for reason in ("MultipleSlices", "HostIPCRequired", "RunAsUserMismatch"):
            assert f"denied request: {reason}: " in stderr
    finally:
        installation.install()


NAMES = (
    "nvidia.com/gpu",
    "nvidia.com/gpu-10gb",
    "nvidia.com/gpu-010gb",
    "nvidia.com/gpu-0gb",
    "nvidia.com/gpu-10GB",
    "nvidia.com/GPU-10gb",
    "nvidia.com/gpu-1.5gb",
    "nvidia.com/gpu-10gib",
    "nvidia.com/gpu10gb",
    "nvidia.com/gpu_10gb",
    "nvidia.com/gpu-10",
    "nvidia.com/gpu-x",
    "nvidia.com/gpu-a100",
    "nvidia.com/gpu.shared",
    "nvidia.com/gpu--10gb",
    "nvidia.com/mig-1g.10gb",
    "nvidia.com/xgpu-10gb",
    "xnvidia.com/gpu-10gb",
    "amd.com/gpu-10gb",
    "nvidia.com.example/gpu-10gb",
)


def test_match_conditions_and_the_kernel_know_the_same_names(
    installation: Installation, silent: None
) -> None:
    """Without a replica, exactly what matches the conditions fails for it."""
    shapes: tuple[Callable[[str], Manifest], ...] = (
        lambda name: pod(container({name: 1})),
        lambda name: pod(container({}), init=(container({name: 1}, name="i"),)),
    )
    objects = [
        called(shape(name), f"{kind}-{index}")
        for kind, shape in enumerate(shapes)
        for index, name in enumerate(NAMES)
    ]
    stdout, stderr = create(installation, *objects)
    wanted = [
        f"{kind}-{index}"
        for kind in range(len(shapes))
        for index, name in enumerate(NAMES)
        if not looks_like_slice(name)
    ]
    created = [line.split()[0].removeprefix("pod/") for line in stdout.splitlines()]
    assert created == wanted
    failed = stderr.count('failed calling webhook "mutate.pods.mpslice.io"')
    assert failed == len(objects) - len(wanted)


def test_conditions_see_requests_without_limits(installation: Installation, silent: None) -> None:
    _, stderr = create(installation, pod(container(requests={"nvidia.com/gpu-10GB": 1})))
    assert 'failed calling webhook "mutate.pods.mpslice.io"' in stderr


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
def test_owned_replica_sets_and_pods_without_slices_cost_no_review(
    installation: Installation, serving: Replica, kind: str
) -> None:
    before = _reviews(serving)
    create(installation, workload(kind, pod(container({"cpu": "1"}))))
    owned = called(workload("ReplicaSet", pod()), "owned")
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u"}
    owned["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    assert "created" in create(installation, owned)[0]
    assert _reviews(serving) == before
    create(installation, workload(kind, pod()))
    assert _reviews(serving) == before + 1


def _reviews(replica: Replica) -> int:
    done = subprocess.run(
        ["curl", "--silent", "--fail", replica.ops("metrics")], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    name = "mpslice_admission_requests_total{"
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))


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
        stderr = wait_until(lambda: create(installation, big)[1], "it is warned about", seconds=20)
        assert stderr.startswith("Warning: SliceTooLarge: ")
        assert "the largest GPU here offers 85gb" in stderr
        assert create(installation, pod(container({"nvidia.com/gpu-85gb": 1})))[1] == ""
    finally:
        installation.kubectl("delete", "nodelayout", "n1")
    wait_until(lambda: create(installation, big)[1] == "", "the GPU is forgotten", seconds=20)


def test_without_rbac_for_the_secret_the_start_fails_in_one_line(
    installation: Installation,
) -> None:
    installation.install()
    name = {"name": "nobody", "namespace": NAMESPACE}
    installation.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name}])
    replica = installation.replica(account="nobody")
    replica.start()
    assert replica.process is not None
    assert replica.process.wait(60) == 1
    (line,) = replica.log.read_text().splitlines()
    assert line.startswith("mpslice-webhook: cannot keep the certificate in the Secret mpslice-")
    assert "grant" in line
