"""An API server whose AdmissionConfiguration enforces Pod Security without any namespace label.

No policy can read that configuration: `admission.podSecurity.clusterDefault` tells ours.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from tests.cluster import plugin
from tests.e2e.cluster import slice_pod, until
from tests.helm.accounts import Json, apply, install_accounts

TOLD = "--set=admission.podSecurity.clusterDefault=baseline"
UNLABELLED, LABELLED, STRICT = "level-none", "level-privileged", "level-restricted"
_ENFORCE = "pod-security.kubernetes.io/enforce"


def admission_configuration(folder: Path) -> str:
    """A flag of kube-apiserver; as Talos sets it."""
    plugin_configuration = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "latest"},
        "exemptions": {"namespaces": ["kube-system"]},
    }
    configuration = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": "PodSecurity", "configuration": plugin_configuration}],
    }
    file = folder / "admission.json"
    file.write_text(json.dumps(configuration))
    return f"--admission-control-config-file={file}"


@pytest.fixture(scope="module")
def plane(
    cluster_parts: Parts, cluster_say: Say, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    flag = admission_configuration(tmp_path_factory.mktemp("admission"))
    with lifecycle.owned(cluster_say) as cluster:
        plane = plugin._get(
            "cluster",
            lambda: controlplane.start(
                cluster, cluster_parts, cluster_say, apiserver_flags=(flag,)
            ),
        )
        levels: dict[str, Json] = {
            UNLABELLED: {},
            LABELLED: {_ENFORCE: "privileged"},
            STRICT: {_ENFORCE: "restricted"},
        }
        for name, labels in levels.items():
            metadata = {"name": name, "labels": labels}
            apply(plane, {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            account = {"name": "default", "namespace": name}
            apply(plane, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        yield plane
    plugin._stop(plane.programs)


def created(plane: ControlPlane, namespace: str, body: Json) -> str:
    """What kubectl says of an object besides that it would be made."""
    options = (f"--namespace={namespace}", "--dry-run=server", "--filename=-")
    return plane.kubectl("create", *options, input=json.dumps(body), check=False).stderr


def deployment() -> Json:
    template = {"metadata": {"labels": {"app": "a"}}, "spec": slice_pod("p", 10)["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template},
    }


def test_what_the_configuration_enforces_is_warned_of(plane: ControlPlane) -> None:
    install_accounts(plane, TOLD)
    warning = until(lambda: created(plane, UNLABELLED, deployment()), "the policy is in force")
    assert (
        f'PodSecurity: namespace {UNLABELLED} enforces Pod Security "baseline" '
        "(admission.podSecurity.clusterDefault), which refuses the hostIPC that slice pods get. "
        "An administrator can label the namespace mpslice.io/pod-security=baseline-except-host-ipc "
        "and pod-security.kubernetes.io/enforce=privileged. Without the first label the second one "
        "lets everybody who creates pods there become root on the nodes"
    ) in warning
    pod = slice_pod("p", 10, hostIPC=True, securityContext={"runAsUser": 1000})
    refused = created(plane, UNLABELLED, pod)
    assert 'violates PodSecurity "baseline:latest": host namespaces (hostIPC=true)' in refused


def test_a_label_says_more_than_the_clusters_default(plane: ControlPlane) -> None:
    install_accounts(plane, TOLD)
    warning = until(lambda: created(plane, STRICT, deployment()), "the policy is in force")
    assert f'namespace {STRICT} enforces Pod Security "restricted", which refuses' in warning
    pod = slice_pod("p", 10, hostIPC=True, securityContext={"runAsUser": 1000})
    assert created(plane, LABELLED, deployment()) == created(plane, LABELLED, pod) == ""


def test_without_the_policy_the_warning_names_what_is_left(plane: ControlPlane) -> None:
    install_accounts(plane, TOLD, "--set=admission.podSecurity.enabled=false")
    words = (
        "mps.hostIPC=false avoids it. So does pod-security.kubernetes.io/enforce=privileged, "
        "but that lets everybody who creates pods there become root on the nodes"
    )
    until(lambda: words in created(plane, UNLABELLED, deployment()), "the warning has changed")
