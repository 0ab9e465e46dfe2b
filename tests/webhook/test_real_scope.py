"""Whose pods reach us on a real API server; an outage of ours stops those and no others."""

import json
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster.waiting import wait_until
from mpslice.slices import LOOKALIKE, looks_like_slice
from tests.waiting import DEADLINE
from tests.webhook.breaker import add_slice, breaking
from tests.webhook.cases import (
    NOS,
    SCRATCH,
    SLICE,
    Manifest,
    container,
    env,
    mount,
    pod,
    sysctl,
    user,
    workload,
)
from tests.webhook.cluster import NAMESPACE, Installation, Replica, called, create
from tests.webhook.judging import validate
from webhook.settings import Settings

pytestmark = pytest.mark.versions


def namespace(installation: Installation, name: str, **labels: str) -> str:
    """A namespace that pods can be created in."""
    metadata = {"name": name, "labels": labels}
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    installation.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    installation.apply([{**account, "metadata": {"name": "default", "namespace": name}}])
    return name


def test_namespaces_are_left_alone_where_somebody_says_so_and_nowhere_else(
    installation: Installation,
) -> None:
    installation.install("admission.excludedNamespaces={excluded}")
    installation.publish([])
    ignored = {
        "kube-system": namespace(installation, "kube-system"),
        "by value": namespace(installation, "excluded"),
        "by label": namespace(installation, "labelled", **{"mpslice.io/admission": "ignore"}),
    }
    judged = {
        "the release's own": namespace(installation, NAMESPACE),
        "another label": namespace(installation, "other", **{"mpslice.io/admission": "enforce"}),
        "default": "default",
    }
    bad = pod(container({SLICE: 2}))
    try:
        wait_until(
            lambda: "created" in create(installation, called(bad, "p", "excluded"))[0],
            "the excluded namespace is known",
            seconds=DEADLINE,
        )
        for where in ignored.values():
            stdout, stderr = create(
                installation,
                called(bad, "p", where),
                called(workload("Deployment", bad), "w", where),
            )
            assert (stdout.count("created"), stderr) == (2, ""), where
        for where in judged.values():
            _, stderr = create(installation, called(bad, "p", where))
            assert 'failed calling webhook "mutate.pods.mpslice.io"' in stderr, where
    finally:
        installation.install()


def test_release_in_default_completes_and_judges_pods_there(installation: Installation) -> None:
    release = replace(installation, namespace="default")
    release.install()
    try:
        with release.serving():
            stdout, stderr = release.kubectl(
                "create", "--dry-run=server", "--filename=-", "--output=json", objects=[pod()]
            )
            assert (json.loads(stdout)["spec"]["hostIPC"], stderr) == (True, "")
            assert "MultipleSlices: " in create(release, pod(container({SLICE: 2})))[1]
    finally:
        installation.install()


LATE = (
    'HostIPCRequired: container "main" (spec.containers[0]): resources.limits asks for '
    "nvidia.com/gpu-10gb: 1, but mpslice's mutating webhook was not asked about it; a webhook that "
    'adds slices has to run before it: name its configuration to sort before "mpslice-pods", or '
    "ask for the slice in the manifest"
)


@pytest.mark.parametrize("policy", [True, False], ids=["by the policy", "by the webhook"])
@pytest.mark.parametrize("reinvocation", ["Never", "IfNeeded"])
def test_slice_that_a_later_webhook_adds_hears_just_that(
    installation: Installation, tmp_path: Path, policy: bool, reinvocation: str
) -> None:
    """The API server does not call ours in the second round, as it passed it over in the first."""
    installation.install(f"admission.policy.enabled={str(policy).lower()}")
    adding = breaking(installation, tmp_path, reinvocation, edit=add_slice)
    with installation.serving(), adding:
        stderr = wait_until(
            lambda: create(installation, pod(container({})))[1], "it is refused", seconds=DEADLINE
        )
    (line,) = stderr.splitlines()
    assert line.endswith(LATE)
    assert ("ValidatingAdmissionPolicy" in line) is policy


def test_slice_that_an_earlier_webhook_adds_is_completed(
    installation: Installation, serving: Replica, tmp_path: Path
) -> None:
    """As the refusal of a later one advises."""
    plain = pod(container({}))

    def created() -> str:
        arguments = ("create", "--dry-run=server", "--filename=-", "--output=json")
        stdout, _ = installation.kubectl(*arguments, objects=[plain])
        return stdout if SLICE in stdout else ""

    with breaking(installation, tmp_path, "Never", edit=add_slice, name="aa-adder"):
        stdout = wait_until(created, "the slice is added", seconds=DEADLINE)
    spec = json.loads(stdout)["spec"]
    assert spec["hostIPC"] is True
    assert spec["schedulingGates"] == [{"name": "mpslice.io/carve"}]


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


AWAY = {
    "two slices": pod(container({SLICE: 2}), **NOS),
    "slice added late, or with the webhook away": pod(securityContext=user(1000)),
    "hostIPC taken away": pod(schedulingGates=[{"name": "mpslice.io/carve"}]),
    "another user": pod(container(securityContext=user(0)), **NOS),
    "no user": pod(hostIPC=True),
    "for Windows": pod(os={"name": "windows"}),
    "sysctl": pod(securityContext=user(1000) | sysctl("kernel.shm_rmid_forced")),
    "sysctl with slashes": pod(securityContext=user(1000) | sysctl("kernel/sem")),
    "slice and a whole gpu": pod(container({SLICE: 1, "nvidia.com/gpu": 1}), **NOS),
    "all devices": pod(container(env=env("NVIDIA_VISIBLE_DEVICES")), **NOS),
    "mount at shm": pod(mount("/dev/shm"), volumes=SCRATCH, **NOS),
}


def test_policy_holds_while_the_webhook_is_away(installation: Installation) -> None:
    """It says the first of what the webhook would."""
    installation.install("admission.failurePolicy=Ignore")
    installation.publish([])
    try:
        stdout = wait_until(
            lambda: create(installation, called(pod(**NOS), "good"))[0],
            "Ignore is known",
            seconds=DEADLINE,
        )
        assert "pod/good created" in stdout
        wait_until(
            lambda: "denied request" in create(installation, AWAY["two slices"])[1],
            "the policy is in force",
            seconds=DEADLINE,
        )
        told = {name: create(installation, manifest)[1] for name, manifest in AWAY.items()}
    finally:
        installation.install()
    assert {name: stderr.partition("denied request: ")[2] for name, stderr in told.items()} == {
        name: validate(manifest, Settings()).message.splitlines()[0] + "\n"
        for name, manifest in AWAY.items()
    }


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
            seconds=DEADLINE,
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
    "nvidia.com/gpu.10gb",
    "nvidia.com/gpu-10Gi",
    "nvidia.com/gpu-512mb",
    "nvidia.com/gpu-1TiB",
    "nvidia.com/gpu-10-gigabytes",
    "nvidia.com/gpu0",
    "nvidia.com/gpu-10",
    "nvidia.com/gpu-3090",
    "nvidia.com/gpu-2080ti",
    "nvidia.com/gpu-3080mobile",
    "nvidia.com/gpu-80gb-a100",
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


def test_cel_and_the_kernel_agree_on_thousands_of_names(installation: Installation) -> None:
    """A policy for ConfigMaps tells which of their values CEL takes for slices, by RE2."""
    installation.apply(READER)
    try:
        wait_until(lambda: seen(installation, [SLICE]), "the policy is in force", seconds=DEADLINE)
        names = sorted(set(generated_names(random.Random(14), 8000)))
        chunks = [names[start : start + 400] for start in range(0, len(names), 400)]
        matched = {name for chunk in chunks for name in seen(installation, chunk)}
    finally:
        kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding"
        installation.kubectl("delete", kinds, "reader")
    assert len(names) >= 4000
    assert matched == {name for name in names if looks_like_slice(name)}
    assert len(names) / 20 < len(matched) < len(names) * 9 / 10


def generated_names(rng: random.Random, count: int) -> Iterator[str]:
    """Names near those of slices, in letters of both cases and of other scripts."""
    parts = (
        ["nvidia.com/gpu"] * 12 + ["nvidia.com/GPU", "nvidia.com/gpus", "nvidia.com/", "x.com/gpu"],
        ["-"] * 6 + ["", "_", ".", "--", "-a"],
        ["10", "1.5", "010", "0", "3090", "2080", "10.", ".5", "1.2.3", "", "\u0661\u0660"],
        ["", "", "", "-", "_", ".", " "],
        ["gb"] * 4 + ["gib", "gi", "g", "mb", "mi", "m", "tb", "ti", "t", "gbs", "gbyte", "gbytes"],
        ["", "", "", "", "gigabytes", "tebibyte", "s", "\u017f", "-a100", "\n", "."],
    )
    for _ in range(count):
        name = "".join(rng.choice(choices) for choices in parts)
        yield "".join(rng.choice((each, each, each, each.upper())) for each in name)


def seen(installation: Installation, names: Sequence[str]) -> list[str]:
    """Those of the names that CEL takes for slices."""
    data = {f"n{index}": name for index, name in enumerate(names)}
    metadata = {"name": "names"}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    _, stderr = create(installation, config_map)
    _, _, told = stderr.partition("matched:")
    return [data[key] for key in told.strip().split(",") if key]


_RULE = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
_MATCHED = f'object.data.filter(key, object.data[key].lowerAscii().matches("{LOOKALIKE}"))'
READER = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "reader"},
        "spec": {
            "matchConstraints": {"resourceRules": [{**_RULE, "operations": ["CREATE"]}]},
            "validations": [
                {
                    "expression": 'object.metadata.name != "names"',
                    "messageExpression": f'"matched:" + {_MATCHED}.join(",")',
                }
            ],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "reader"},
        "spec": {"policyName": "reader", "validationActions": ["Deny"]},
    },
]


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
