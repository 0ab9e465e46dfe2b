"""An offer in the words of each autoscaler. Pure.

Read from the sources that the documentation names (docs/autoscalers.md): a key that is written
otherwise is ignored in silence.
"""

from collections.abc import Mapping
from typing import Any, Final

from cli.nodetemplate.offer import Offer
from planner.model.constraints import Taint

Json = dict[str, Any]

_TEMPLATE: Final = "k8s.io/cluster-autoscaler/node-template"
_AZURE: Final = "k8s.io_cluster-autoscaler_node-template"
_GCE: Final = "clusterautoscaler-nodetemplate-resources"
_CLUSTER_API: Final = "capacity.cluster-autoscaler.kubernetes.io"
_INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
_NODE_POOL: Final = "karpenter.sh/nodepool"


def aws(offer: Offer) -> Json:
    """Tags of the Auto Scaling group."""
    return {"tags": _tags(_TEMPLATE, "/", offer, str, str)}


def azure(offer: Offer) -> Json:
    """Makes the tags of the scale set. `_` stands for a slash, and `~2` for `_` in labels."""

    def label(key: str) -> str:
        return key.replace("_", "~2").replace("/", "_")

    def resource(name: str) -> str:
        return name.replace("/", "_")

    return {"tags": _tags(_AZURE, "_", offer, label, resource)}


def gce(offer: Offer) -> Json:
    """Labels of a GKE node pool; for an instance template the same in its kube-env."""
    resources = {f"{_GCE}.{name}": str(n) for name, n in offer.resources.items()}
    variables = [
        f"node_labels={_pairs(offer.labels)}",
        *([f"node_taints={_gce_taints(offer)}"] if offer.taints else []),
        f"extended_resources={_pairs(_texts(offer.resources))}",
    ]
    return {
        "nodeLabels": {**resources, **offer.labels},
        "nodeTaints": [_taint(each) for each in offer.taints],
        "AUTOSCALER_ENV_VARS": ";".join(variables),
    }


def cluster_api(offer: Offer) -> Json:
    """Annotations of the MachineDeployment, which name one resource at most; `status.capacity` of
    the infrastructure's machine template names any."""
    annotations = {f"{_CLUSTER_API}/{name}": each for name, each in (offer.amounts or {}).items()}
    annotations[f"{_CLUSTER_API}/labels"] = _pairs(offer.labels)
    if offer.taints:
        taints = ",".join(_taint(each) for each in offer.taints)
        annotations[f"{_CLUSTER_API}/taints"] = taints
    if len(offer.resources) != 1:
        amounts = {**(offer.amounts or {}), **_texts(offer.resources)}
        return {"annotations": annotations, "machineTemplate": {"status": {"capacity": amounts}}}
    ((name, count),) = offer.resources.items()
    annotations |= {f"{_CLUSTER_API}/gpu-type": name, f"{_CLUSTER_API}/gpu-count": str(count)}
    return {"annotations": annotations}


def karpenter(offer: Offer) -> Json:
    """A NodeOverlay, and what the NodePool's template has to say."""
    wanted = {_NODE_POOL: offer.node_pool, _INSTANCE_TYPE: offer.instance_type}
    requirements = [
        {"key": key, "operator": "In", "values": [value]} for key, value in wanted.items() if value
    ]
    template: Json = {"metadata": {"labels": dict(offer.labels)}}
    if offer.taints:
        taints = [
            {"key": t.key, **({"value": t.value} if t.value else {}), "effect": t.effect}
            for t in offer.taints
        ]
        template["spec"] = {"taints": taints}
    return {
        "nodeOverlay": {
            "apiVersion": "karpenter.sh/v1alpha1",
            "kind": "NodeOverlay",
            "metadata": {"name": "mpslice"},
            "spec": {"requirements": requirements, "capacity": _texts(offer.resources)},
        },
        "nodePool": {"spec": {"template": template}},
    }


FORMATS: Final = {
    "aws": ("cluster-autoscaler on AWS: tags of the Auto Scaling group", aws),
    "azure": ("cluster-autoscaler on Azure: tags of the scale set", azure),
    "gce": ("cluster-autoscaler on Google Cloud: labels and taints of the node pool", gce),
    "clusterapi": ("cluster-autoscaler with Cluster API: the MachineDeployment", cluster_api),
    "karpenter": ("Karpenter, with its feature gate NodeOverlay", karpenter),
}
"""Each autoscaler, what its part of the answer is for, and the function that writes it."""


def _tags(prefix: str, slash: str, offer: Offer, label: Any, resource: Any) -> dict[str, str]:
    def tag(kind: str, name: str) -> str:
        return f"{prefix}{slash}{kind}{slash}{name}"

    return {
        **{tag("resources", resource(name)): str(n) for name, n in offer.resources.items()},
        **{tag("label", label(key)): value for key, value in offer.labels.items()},
        **{tag("taint", label(each.key)): f"{each.value}:{each.effect}" for each in offer.taints},
    }


def _texts(resources: Mapping[str, int]) -> dict[str, str]:
    return {name: str(count) for name, count in resources.items()}


def _pairs(values: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in values.items())


def _taint(taint: Taint) -> str:
    """As kubectl and the kubelet write it."""
    key = f"{taint.key}={taint.value}" if taint.value else taint.key
    return f"{key}:{taint.effect}"


def _gce_taints(offer: Offer) -> str:
    return ",".join(f"{each.key}={each.value}:{each.effect}" for each in offer.taints)
