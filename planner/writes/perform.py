"""Each action as one request to the API server, guarded by what it was decided on."""

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Kube, PatchType
from mpslice.kube.errors import Conflict
from mpslice.nodelayout import API_VERSION, KIND, spec_to_json
from planner.model import GATE, Node, Pod
from planner.writes.actions import (
    MANAGED_LABEL,
    Action,
    CreateLayout,
    DeleteLayout,
    Nominate,
    SetManaged,
    Ungate,
    WriteSpec,
)


async def perform(kube: Kube, action: Action) -> Json:
    """Does it and returns what the API server answered; raises KubeError.

    Conflict means that the object is another one by now: decide again.
    """
    match action:
        case Ungate(pod=pod):
            gates = [{"name": gate} for gate in pod.gates if gate != GATE]
            return await _patch_pod(kube, pod, {"spec": {"schedulingGates": gates or None}})
        case Nominate(pod=pod, node=node):
            status = {"status": {"nominatedNodeName": node or None}}
            return await _patch_pod(kube, pod, status, subresource="status")
        case WriteSpec(layout=layout, spec=spec):
            body = {
                "metadata": {"resourceVersion": layout.resource_version},
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


async def _patch_pod(kube: Kube, pod: Pod, change: Json, *, subresource: str | None = None) -> Json:
    guard = {"resourceVersion": pod.resource_version, "uid": pod.uid}
    return await kube.patch(
        PODS,
        pod.name,
        {"metadata": guard, **change},
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
