"""Whose pods reach us on a real API server; an outage of ours stops those and no others."""

import subprocess
from collections.abc import Callable

import pytest

from hack.cluster.waiting import wait_until
from mpslice.slices import looks_like_slice
from tests.webhook.cases import NOS, SLICE, Manifest, container, pod, user, workload
from tests.webhook.cluster import NAMESPACE, Installation, Replica, called, create
from webhook.policy import validate
from webhook.settings import Settings


def test_system_and_own_namespaces_are_left_alone(installation: Installation, silent: None) -> None:
    bad = [
        called(pod(container({SLICE: 2})), "p", namespace)
        for namespace in ("kube-system", NAMESPACE)
    ]
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


def test_policy_refuses_a_user_namespace_where_there_is_no_host_ipc_to_do_so(
    installation: Installation,
) -> None:
    installation.install("admission.failurePolicy=Ignore", "mps.hostIPC=false")
    installation.publish([])
    bad = pod(hostUsers=False, securityContext=user(1000))
    said = str(validate(bad, Settings(host_ipc=False)).message)
    try:
        wait_until(
            lambda: said in create(installation, called(bad, "apart"))[1],
            "the policy is known, and says what the webhook would",
            seconds=20,
        )
    finally:
        installation.install()


@pytest.mark.parametrize("init", [(), (container({}, name="i"),)], ids=["alone", "with init"])
@pytest.mark.parametrize("containers", [None, []], ids=str)
def test_pod_without_containers_hears_so_from_the_api_server(
    installation: Installation, silent: None, init: tuple[Manifest, ...], containers: object
) -> None:
    empty = called(pod(init=init), "empty")
    empty["spec"]["containers"] = containers
    _, stderr = installation.kubectl(
        "create", "--dry-run=server", "--validate=false", "--filename=-", objects=[empty]
    )
    assert "spec.containers: Required value" in stderr
    assert "mpslice.io" not in stderr


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
