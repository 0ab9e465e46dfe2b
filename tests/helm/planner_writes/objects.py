"""The objects of the cluster that the planner's token is tried on."""

from planner.model.pods import GATE
from tests.helm.accounts import NAMESPACE, STRATEGIC, Json, Write

SLICED, PLAIN, NODE, SPARE = "policy-sliced", "policy-plain", "policy-planned", "policy-spare"
POD = f"/api/v1/namespaces/default/pods/{SLICED}"
OTHER_POD = f"/api/v1/namespaces/default/pods/{PLAIN}"
NODE_PATH = f"/api/v1/nodes/{NODE}"
LAYOUTS = "/apis/mpslice.io/v1alpha1/nodelayouts"
EVENTS = "/api/v1/namespaces/default/events"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
RBAC = "cannot"  # of every refusal of RBAC's
OTHERS_GATE = {"name": "example.org/quota"}
OURS = "mpslice.io/SliceAvailable"
OTHERS_CONDITION = {"type": "example.org/Checked", "status": "True"}
OUR_CONDITION = {"type": OURS, "status": "False", "reason": "GPUMemory", "message": "10gb: none."}


def pod(name: str, limits: Json) -> Json:
    """With quantities and fields that the API server completes or writes in another way."""
    container = {
        "name": "main",
        "image": "example.org/image:1",
        "resources": {"limits": {"cpu": "1000m", "memory": "0.5Gi", **limits}},
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": "test"},
            "annotations": {"example.org/note": "kept"},
        },
        "spec": {
            # As the webhook completes slice pods.
            "hostIPC": True,
            "securityContext": {"runAsUser": 1000},
            "schedulingGates": [{"name": GATE}, OTHERS_GATE],
            "initContainers": [{"name": "first", "image": "example.org/image:1"}],
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1000Mi"}}],
        },
    }


def node(name: str) -> Json:
    labels = {"kubernetes.io/hostname": name, "example.org/pool": "a"}
    metadata = {"name": name, "labels": labels, "annotations": {"example.org/note": "kept"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def layout(name: str, uid: str, **metadata: object) -> Json:
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": {"name": name, "ownerReferences": [owner], **metadata},
        "spec": {"gpus": []},
    }


def event(name: str, component: str, kind: str = "Pod") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": kind, "name": SLICED, "namespace": "default"},
        "reason": "Test",
        "message": "Test.",
        "type": "Normal",
        "source": {"component": component},
        "reportingComponent": component,
    }


def status_of(path: str, **fields: object) -> Write:
    """A write of these fields to the status of what is at the path."""
    return Write(f"{path}/status", {"status": fields}, content_type=STRATEGIC)
