"""What the planner's token may not write elsewhere: nodes, NodeLayouts, Events, all the rest."""

from tests.helm.accounts import NAMESPACE, Write
from tests.helm.planner_writes.objects import (
    EVENTS,
    LAYOUTS,
    LEASES,
    NODE,
    NODE_PATH,
    RBAC,
    event,
    layout,
    node,
    status_of,
)

NODE_METADATA = "nothing in a node's metadata but its label"
NODE_REST = "neither a node's spec, its taints included, nor its status"
LAYOUT = "nothing of a NodeLayout but its spec"
LAYOUT_MADE = "makes NodeLayouts that their node owns"
LEASE_BODY = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "other", "namespace": NAMESPACE},
}
REFUSED_ELSEWHERE: dict[str, tuple[Write, str]] = {
    # Nodes.
    "another label of a node": (
        Write(NODE_PATH, {"metadata": {"labels": {"example.org/pool": "b"}}}),
        "no label of a node but mpslice.io/managed",
    ),
    "another label of a node taken away": (
        Write(NODE_PATH, {"metadata": {"labels": {"kubernetes.io/hostname": None}}}),
        "no label of a node but mpslice.io/managed",
    ),
    "a label beside ours": (
        Write(
            NODE_PATH, {"metadata": {"labels": {"mpslice.io/managed": "true", "mpslice.io/x": "y"}}}
        ),
        "no label of a node but mpslice.io/managed",
    ),
    "an annotation of a node": (
        Write(NODE_PATH, {"metadata": {"annotations": {"mpslice.io/exclude-gpus": "0"}}}),
        NODE_METADATA,
    ),
    "a finalizer of a node": (
        Write(NODE_PATH, {"metadata": {"finalizers": ["example.org/stay"]}}),
        NODE_METADATA,
    ),
    "a taint": (
        Write(NODE_PATH, {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}),
        NODE_REST,
    ),
    "unschedulable": (Write(NODE_PATH, {"spec": {"unschedulable": True}}), NODE_REST),
    "a provider's id": (Write(NODE_PATH, {"spec": {"providerID": "x://y"}}), NODE_REST),
    "the status of a node": (status_of(NODE_PATH, capacity={"nvidia.com/gpu-10gb": "9"}), RBAC),
    "a node deleted": (Write(NODE_PATH, None, "DELETE"), RBAC),
    "a node made": (Write("/api/v1/nodes", node("policy-new"), "POST"), RBAC),
    # NodeLayouts.
    "the status of a NodeLayout": (
        Write(f"{LAYOUTS}/{NODE}/status", {"status": {"observedGeneration": 9}}),
        RBAC,
    ),
    "a label of a NodeLayout": (
        Write(f"{LAYOUTS}/{NODE}", {"metadata": {"labels": {"a": "b"}}}),
        LAYOUT,
    ),
    "a NodeLayout without its owner": (
        Write(f"{LAYOUTS}/{NODE}", {"metadata": {"ownerReferences": None}}),
        LAYOUT,
    ),
    "a finalizer of a NodeLayout": (
        Write(f"{LAYOUTS}/{NODE}", {"metadata": {"finalizers": ["example.org/stay"]}}),
        LAYOUT,
    ),
    "a NodeLayout that nobody owns": (
        Write(LAYOUTS, layout("policy-new", "u", ownerReferences=[]), "POST"),
        LAYOUT_MADE,
    ),
    "a NodeLayout of another node": (
        Write(
            LAYOUTS,
            layout(
                "policy-new",
                "u",
                ownerReferences=[{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "u"}],
            ),
            "POST",
        ),
        LAYOUT_MADE,
    ),
    "a NodeLayout that stays": (
        Write(LAYOUTS, layout("policy-new", "u", finalizers=["example.org/stay"]), "POST"),
        LAYOUT_MADE,
    ),
    # Events and Leases.
    "an Event in another's name": (
        Write(EVENTS, event("new", "kubelet"), "POST"),
        "no Event in another's name",
    ),
    "somebody else's Event": (
        Write(f"{EVENTS}/policy-others", {"count": 9}),
        "no Event in another's name",
    ),
    "an Event about a Secret": (
        Write(EVENTS, event("new", "mpslice-planner", "Secret"), "POST"),
        "Events about pods, nodes and NodeLayouts only",
    ),
    "another Lease": (Write(LEASES, LEASE_BODY, "POST"), "no Lease but mpslice-planner"),
    "the scheduler's Lease": (
        Write(
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler",
            {"spec": {"holderIdentity": "x"}},
        ),
        RBAC,
    ),
    # Everything else of the cluster.
    "Secrets read": (Write("/api/v1/secrets", None, "GET"), RBAC),
    "a ConfigMap": (
        Write(
            f"/api/v1/namespaces/{NAMESPACE}/configmaps",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}},
            "POST",
        ),
        RBAC,
    ),
    "a token of another account": (
        Write(
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/mpslice-nodeagent/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
            "POST",
        ),
        RBAC,
    ),
    "its own policy": (
        Write(
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/mpslice-planner-pods",
            None,
            "DELETE",
        ),
        RBAC,
    ),
    "its own rights": (
        Write(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/mpslice-planner",
            {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
        ),
        RBAC,
    ),
}
