"""As much of Cluster API as cluster-autoscaler talks to: its kinds, and node groups without nodes.

No controller answers: a MachineDeployment says how many machines it is told to have, and has none.
"""

import json
from typing import Any

from hack.cluster.controlplane import ControlPlane

Json = dict[str, Any]
GROUP = "cluster.x-k8s.io"
INFRASTRUCTURE = "infrastructure.cluster.x-k8s.io"
VERSION = "v1beta1"
TEMPLATE = "TestMachineTemplate"
NAMESPACE = "machines"
_SIZES = f"{GROUP}/cluster-api-autoscaler-node-group"
_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/machinedeployments"
_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def install(plane: ControlPlane) -> None:
    """Makes the kinds, and waits until they are served."""
    kinds = [
        _kind(GROUP, "Machine"),
        _kind(GROUP, "MachineSet", scale=_SCALE),
        _kind(GROUP, "MachineDeployment", scale=_SCALE),
        _kind(INFRASTRUCTURE, TEMPLATE),
    ]
    _apply(plane, *kinds)
    names = [f"crd/{kind['metadata']['name']}" for kind in kinds]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
    plane.kubectl("create", "namespace", NAMESPACE)


def _kind(group: str, kind: str, **subresources: Json) -> Json:
    plural = f"{kind.lower()}s"
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
        "subresources": subresources,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def make_group(plane: ControlPlane, name: str, told: Json) -> None:
    """A node group without nodes, told about as `kubectl mpslice node-template` says: `annotations`
    of the MachineDeployment and `status` of its machine template."""
    template = {
        "apiVersion": f"{INFRASTRUCTURE}/{VERSION}",
        "kind": TEMPLATE,
        "metadata": {"name": name, "namespace": NAMESPACE},
        **told.get("machineTemplate", {}),
    }
    reference = {"apiVersion": template["apiVersion"], "kind": TEMPLATE, "name": name}
    annotations = {f"{_SIZES}-min-size": "0", f"{_SIZES}-max-size": "9"}
    labels = {f"{GROUP}/deployment-name": name}
    machine = {
        "metadata": {"labels": labels},
        "spec": {"clusterName": "test", "infrastructureRef": reference},
    }
    spec = {
        "clusterName": "test",
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": machine,
    }
    deployment = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "MachineDeployment",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {**annotations, **told["annotations"]},
        },
        "spec": spec,
    }
    _apply(plane, template, deployment)


def delete_groups(plane: ControlPlane) -> None:
    where = f"--namespace={NAMESPACE}"
    plane.kubectl("delete", f"machinedeployments,{TEMPLATE.lower()}s", "--all", where)


def size(plane: ControlPlane, name: str) -> int:
    """How many machines the group is told to have."""
    return int(plane.api.get(f"{_PATH}/{name}")["spec"]["replicas"])


def _apply(plane: ControlPlane, *objects: Json) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    plane.kubectl("apply", "--server-side", "--filename=-", input=text)
