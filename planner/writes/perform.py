"""Each action as one request to the API server, guarded by what it was decided on."""

from typing import Final

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Kube, PatchType, Resource
from mpslice.kube.errors import Conflict
from mpslice.nodelayout import API_VERSION, KIND, spec_to_json
from mpslice.progress import PROGRESS
from planner.model.nodes import Node
from planner.model.pods import GATE, Pod
from planner.words.condition import condition_json
from planner.writes.actions import (
    MANAGED_LABEL,
    Action,
    CreateLayout,
    DeleteLayout,
    Evict,
    Inform,
    Nominate,
    SetManaged,
    Ungate,
    WriteSpec,
)

NO_OWNERS: Final[list[Json]] = [{}]
"""Once managedFields has this value, the API server keeps no account of field owners until somebody
applies the object on its side (apimachinery/pkg/util/managedfields/internal,
skipnonapplied.go). Nobody applies layouts, and the account takes a sixth to a quarter of the time
of writes that pods wait for."""


async def perform(kube: Kube, action: Action) -> Json:
    """Does it and returns what the API server answered; raises KubeError.

    Conflict means that the object is another one by now: decide again.
    """
    match action:
        case Ungate(pod=pod):
            gates = [{"name": gate} for gate in pod.gates if gate != GATE]
            return await _patch_pod(kube, pod, {"spec": {"schedulingGates": gates or None}})
        case Nominate(pod=pod, node=node, note=note):
            # One write: a write of the status takes annotations, too (pkg/registry/core/pod,
            # podStatusStrategy.PrepareForUpdate resets the spec and the owners alone).
            change = {"status": {"nominatedNodeName": node or None}}
            return await _patch_pod(kube, pod, change, note=note, subresource="status")
        case Inform(pod=pod):
            return await _inform(kube, action)
        case Evict(pod=pod):
            return await _evict(kube, pod)
        case WriteSpec(layout=layout, spec=spec):
            body = {
                "metadata": {
                    "resourceVersion": layout.resource_version,
                    "managedFields": NO_OWNERS,
                },
                "spec": spec_to_json(spec),
            }
            return await kube.patch(NODE_LAYOUTS, layout.name, body, type=PatchType.MERGE)
        case CreateLayout(node=node):
            return await _create_layout(kube, node)
        case DeleteLayout(layout=layout):
            await kube.delete(
                NODE_LAYOUTS,
                layout.name,
                uid=layout.uid,
                resource_version=layout.resource_version,
            )
            return {}
        case SetManaged(node=node, managed=managed):
            body = {
                "metadata": {
                    "uid": node.uid,
                    "labels": {MANAGED_LABEL: "true" if managed else None},
                }
            }
            return await kube.patch(NODES, node.name, body, type=PatchType.MERGE)


async def _evict(kube: Kube, pod: Pod) -> Json:
    """By the Eviction API: it answers 429 where a PodDisruptionBudget forbids it."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }
    eviction = Resource(PODS.api_version, f"{PODS.plural}/{pod.name}/eviction", namespaced=True)
    return await kube.create(eviction, body, namespace=pod.namespace)


async def _inform(kube: Kube, action: Inform) -> Json:
    """Guarded by the uid alone: nothing that the scheduler writes meanwhile makes it wrong."""
    pod, available = action.pod, action.available
    metadata: Json = {"uid": pod.uid}
    if action.note is not None:
        metadata["annotations"] = {PROGRESS: action.note or None}
    conditions = [] if available is None else [condition_json(available)]
    return await kube.patch(
        PODS,
        pod.name,
        {"metadata": metadata, "status": {"conditions": conditions}},
        type=PatchType.STRATEGIC,  # which merges conditions by their type
        namespace=pod.namespace,
        subresource="status",
    )


async def _patch_pod(
    kube: Kube,
    pod: Pod,
    change: Json,
    *,
    note: str | None = None,
    subresource: str | None = None,
) -> Json:
    metadata: Json = {"resourceVersion": pod.resource_version, "uid": pod.uid}
    if note is not None and note != pod.progress:
        metadata["annotations"] = {PROGRESS: note or None}
    return await kube.patch(
        PODS,
        pod.name,
        {"metadata": metadata, **change},
        type=PatchType.MERGE,
        namespace=pod.namespace,
        subresource=subresource,
    )


async def _create_layout(kube: Kube, node: Node) -> Json:
    owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": node.name, "ownerReferences": [owner]},
        "spec": {"release": False, "gpus": []},
    }
    try:
        return await kube.create(NODE_LAYOUTS, body)
    except Conflict:
        return {}  # it is there, which is what was wanted; the watch will show it
