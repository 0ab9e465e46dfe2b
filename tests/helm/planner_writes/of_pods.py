"""What the planner's token may write of a pod, and what it may not."""

from planner.model.pods import GATE
from tests.helm.accounts import APPLY, JSON_PATCH, STRATEGIC, Write
from tests.helm.planner_writes.objects import (
    NODE,
    OTHER_POD,
    OTHERS_GATE,
    OUR_CONDITION,
    POD,
    RBAC,
    SLICED,
    pod,
    status_of,
)

# What else it may do: other patch types for the same, its condition and its annotations.
ALLOWED: dict[str, Write] = {
    "our gate by JSON patch": Write(
        POD,
        [
            {"op": "test", "path": "/spec/schedulingGates/0/name", "value": GATE},
            {"op": "remove", "path": "/spec/schedulingGates/0"},
        ],
        content_type=JSON_PATCH,
    ),
    "our gate by strategic merge patch": Write(
        POD,
        {"spec": {"schedulingGates": [{"$patch": "delete", "name": GATE}]}},
        content_type=STRATEGIC,
    ),
    "our gate and an annotation of ours at once": Write(
        POD,
        {
            "metadata": {"annotations": {"mpslice.io/tried": "n1"}},
            "spec": {"schedulingGates": [OTHERS_GATE]},
        },
    ),
    "an annotation of ours, server-side": Write(
        f"{POD}?fieldManager=mpslice-planner",
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": SLICED, "annotations": {"mpslice.io/tried": "n1"}},
        },
        content_type=APPLY,
    ),
    "nothing": Write(POD, {}),
    "our condition": Write(
        f"{POD}/status", {"status": {"conditions": [OUR_CONDITION]}}, content_type=STRATEGIC
    ),
    "our condition with a nomination": Write(
        f"{POD}/status",
        {"status": {"nominatedNodeName": NODE, "conditions": [OUR_CONDITION]}},
        content_type=STRATEGIC,
    ),
    "our annotation with the status": Write(
        f"{POD}/status", {"metadata": {"annotations": {"mpslice.io/since": "now"}}}
    ),
}

NO_SLICE = "changes no pod that asks for no slice"
SPEC = "nothing in a pod's spec but the scheduling gate"
METADATA = "nothing in a pod's metadata but annotations"
STATUS = "nothing in a pod's status but nominatedNodeName and its condition"
CONDITION = "no condition of a pod but mpslice.io/SliceAvailable"
EVICTION = {
    "apiVersion": "policy/v1",
    "kind": "Eviction",
    "metadata": {"name": SLICED, "namespace": "default"},
}
BINDING = {
    "apiVersion": "v1",
    "kind": "Binding",
    "metadata": {"name": SLICED},
    "target": {"kind": "Node", "name": NODE},
}
REFUSED_OF_PODS: dict[str, tuple[Write, str]] = {
    # A pod's own fields.
    "an image": (
        Write(
            POD,
            {"spec": {"containers": [{"name": "main", "image": "evil"}]}},
            content_type=STRATEGIC,
        ),
        SPEC,
    ),
    "an image, server-side": (
        Write(
            f"{POD}?fieldManager=x&force=true",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": SLICED},
                "spec": {"containers": [{"name": "main", "image": "evil"}]},
            },
            content_type=APPLY,
        ),
        SPEC,
    ),
    "an image while our gate goes": (
        Write(
            POD,
            {
                "spec": {
                    "schedulingGates": [{"$patch": "delete", "name": GATE}],
                    "containers": [{"name": "main", "image": "evil"}],
                }
            },
            content_type=STRATEGIC,
        ),
        SPEC,
    ),
    "an init container's image": (
        Write(
            POD,
            {"spec": {"initContainers": [{"name": "first", "image": "evil"}]}},
            content_type=STRATEGIC,
        ),
        SPEC,
    ),
    "a toleration": (
        Write(
            POD,
            [{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}],
            content_type=JSON_PATCH,
        ),
        SPEC,
    ),
    "a node selector": (Write(POD, {"spec": {"nodeSelector": {"a": "b"}}}), SPEC),
    "a node affinity": (
        Write(
            POD,
            {
                "spec": {
                    "affinity": {
                        "nodeAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": {
                                "nodeSelectorTerms": [
                                    {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
                                ]
                            }
                        }
                    }
                }
            },
        ),
        SPEC,
    ),
    "a deadline": (Write(POD, {"spec": {"activeDeadlineSeconds": 1}}), SPEC),
    "somebody else's gate": (
        Write(POD, {"spec": {"schedulingGates": [{"name": GATE}]}}),
        "takes away the scheduling gate mpslice.io/carve and no other",
    ),
    "all gates": (
        Write(POD, {"spec": {"schedulingGates": None}}),
        "takes away the scheduling gate mpslice.io/carve and no other",
    ),
    "a gate more": (
        Write(
            POD,
            {"spec": {"schedulingGates": [{"name": GATE}, OTHERS_GATE, {"name": "example.org/x"}]}},
        ),
        "only deletion is allowed",
    ),
    "a label": (Write(POD, {"metadata": {"labels": {"app": "mine"}}}), METADATA),
    "a label taken away": (Write(POD, {"metadata": {"labels": {"app": None}}}), METADATA),
    "a finalizer": (Write(POD, {"metadata": {"finalizers": ["example.org/stay"]}}), METADATA),
    "an owner": (
        Write(
            POD,
            {
                "metadata": {
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "x"}
                    ]
                }
            },
        ),
        METADATA,
    ),
    "somebody else's annotation": (
        Write(POD, {"metadata": {"annotations": {"example.org/note": "mine"}}}),
        "no annotation of a pod but those that begin with mpslice.io/",
    ),
    "somebody else's annotation taken away": (
        Write(POD, {"metadata": {"annotations": {"example.org/note": None}}}),
        "no annotation of a pod but those that begin with mpslice.io/",
    ),
    # A pod's status.
    "Ready": (status_of(POD, conditions=[{"type": "Ready", "status": "True"}]), CONDITION),
    "PodScheduled": (
        status_of(POD, conditions=[{"type": "PodScheduled", "status": "True"}]),
        CONDITION,
    ),
    "all conditions taken away": (
        Write(f"{POD}/status", {"status": {"conditions": None}}),
        CONDITION,
    ),
    "a pod IP": (status_of(POD, podIP="198.18.0.9", podIPs=[{"ip": "198.18.0.9"}]), STATUS),
    "a phase": (status_of(POD, phase="Succeeded"), STATUS),
    "a status of containers": (
        status_of(
            POD,
            containerStatuses=[
                {"name": "main", "ready": True, "image": "i", "imageID": "i", "restartCount": 0}
            ],
        ),
        STATUS,
    ),
    "a label with the status": (
        Write(f"{POD}/status", {"metadata": {"labels": {"app": "mine"}}}),
        METADATA,
    ),
    "somebody else's annotation with the status": (
        Write(f"{POD}/status", {"metadata": {"annotations": {"example.org/note": "mine"}}}),
        "no annotation of a pod but those that begin with mpslice.io/",
    ),
    # Pods that are none of ours.
    "our gate of another pod": (
        Write(OTHER_POD, {"spec": {"schedulingGates": [OTHERS_GATE]}}),
        NO_SLICE,
    ),
    "our annotation of another pod": (
        Write(OTHER_POD, {"metadata": {"annotations": {"mpslice.io/since": "now"}}}),
        NO_SLICE,
    ),
    "a nomination of another pod": (status_of(OTHER_POD, nominatedNodeName=NODE), NO_SLICE),
    "our condition of another pod": (status_of(OTHER_POD, conditions=[OUR_CONDITION]), NO_SLICE),
    # Verbs and subresources that RBAC does not grant.
    "a pod replaced": (Write(POD, pod(SLICED, {}), "PUT"), RBAC),
    "a pod made": (Write("/api/v1/namespaces/default/pods", pod("new", {}), "POST"), RBAC),
    "a pod deleted": (Write(POD, None, "DELETE"), RBAC),
    "a pod bound": (Write(f"{POD}/binding", BINDING, "POST"), RBAC),
    "a pod evicted": (Write(f"{POD}/eviction", EVICTION, "POST"), RBAC),
    "an ephemeral container": (
        Write(
            f"{POD}/ephemeralcontainers",
            {"spec": {"ephemeralContainers": [{"name": "debug", "image": "evil"}]}},
            content_type=STRATEGIC,
        ),
        RBAC,
    ),
    "a resize": (
        Write(
            f"{POD}/resize",
            {"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "2"}}}]}},
            content_type=STRATEGIC,
        ),
        RBAC,
    ),
}
