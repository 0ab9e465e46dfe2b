"""Kubernetes JSON to the planner's records: the edge behind which nothing is a dict any more.

Requests have a module of their own (parse_requests.py), and so have relations between pods
(parse_relations.py).
"""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION, SPREAD_OVER_GPUS
from mpslice.kube.shapes import NAMESPACE, NODE, POD, check_shape
from mpslice.nodelayout import APPLIED_ANNOTATION
from mpslice.progress import PROGRESS
from mpslice.quantities import whole
from mpslice.slices import GB_RESOURCE, SliceSize, parse_resource
from planner.model.constraints import (
    NAMESPACE_NAME,
    Constraints,
    Expression,
    NodeTerm,
    Taint,
    Toleration,
)
from planner.model.nodes import Node
from planner.model.pods import Available, Pod, SliceClaim
from planner.state.parse_relations import parse_relations
from planner.state.parse_requests import (
    allocatable,
    asks_for_gb,
    host_ports,
    is_sidecar,
    pod_requests,
)
from planner.words.condition import AVAILABLE

Json = Mapping[str, Any]
Labels = Mapping[str, str]

MIN_MEMBER_ANNOTATION: Final = "mpslice.io/min-member"

_FINISHED: Final = frozenset({"Succeeded", "Failed"})
_MOST_SLICES: Final = 1024  # in one pod: more than any node holds, few enough to count
_LONGEST_GRACE: Final = 10**8  # seconds, three years: sums with it are times
_COUNT: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


def parse_pod(obj: Json) -> Pod:
    """A Pod object; raises InvalidQuantity or WrongShape, and KeyError for what has no name."""
    check_shape(obj, POD)
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    containers = spec.get("containers") or ()
    init_containers = spec.get("initContainers") or ()
    namespace = metadata.get("namespace") or "default"
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    group = labels.get(GROUP_LABEL) or ""
    return Pod(
        namespace=namespace,
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        resource_version=metadata.get("resourceVersion") or "",
        created=metadata.get("creationTimestamp") or "",
        priority=int(spec.get("priority") or 0),
        node=spec.get("nodeName") or "",
        finished=status.get("phase") in _FINISHED,
        terminating=bool(metadata.get("deletionTimestamp")),
        gates=tuple(str(gate.get("name") or "") for gate in spec.get("schedulingGates") or ()),
        claims=tuple(islice(_claims(init_containers, containers), _MOST_SLICES)),
        requests=pod_requests(spec, status),
        ports=tuple(host_ports(spec)),
        constraints=_constraints(spec),
        relations=parse_relations(spec, namespace, labels),
        labels=labels,
        group=group,
        min_member=_min_member(annotations),
        spread=bool(group) and annotations.get(SPREAD_ANNOTATION) == SPREAD_OVER_GPUS,
        nominated=status.get("nominatedNodeName") or "",
        unschedulable=_verdict(status),
        volume_claims=tuple(_volume_claims(metadata["name"], spec)),
        progress=annotations.get(PROGRESS) or "",
        available=_available(status),
        succeeded=status.get("phase") == "Succeeded",
        preempts=spec.get("preemptionPolicy") != "Never",
        grace=_grace(metadata, spec),
    )


def _grace(metadata: Json, spec: Json) -> int:
    """The seconds that the pod may take to end; 30 where nothing is said."""
    said = metadata.get("deletionGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    return min(said, _LONGEST_GRACE) if isinstance(said, int) else 30


def _volume_claims(name: str, spec: Json) -> Iterable[str]:
    """The claims that a pod uses; that of an ephemeral volume has the names of pod and volume
    (component-helpers/storage/ephemeral, VolumeClaimName).
    """
    for volume in spec.get("volumes") or ():
        claim = volume.get("persistentVolumeClaim") or {}
        if claim.get("claimName"):
            yield claim["claimName"]
        elif volume.get("ephemeral") is not None:
            yield f"{name}-{volume.get('name')}"


def _available(status: Json) -> Available | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == AVAILABLE:
            return Available(
                condition.get("status") == "True",
                condition.get("reason") or "",
                condition.get("message") or "",
                condition.get("lastTransitionTime") or "",
                condition.get("lastProbeTime") or "",
            )
    return None


def _verdict(status: Json) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return condition.get("message") or "Unschedulable"
    return ""


def _min_member(annotations: Json) -> int | None:
    """A positive whole number, or None: what is no number says nothing."""
    text = str(annotations.get(MIN_MEMBER_ANNOTATION) or "")
    return int(text) if _COUNT.fullmatch(text) else None


def parse_node(obj: Json) -> Node:
    """A Node object; errors as parse_pod's."""
    check_shape(obj, NODE)
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    offered = status.get("allocatable") or status.get("capacity") or {}
    return Node(
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        labels=metadata.get("labels") or {},
        taints=tuple(
            Taint(taint.get("key") or "", taint.get("value") or "", taint.get("effect") or "")
            for taint in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=_is_ready(status),
        allocatable=allocatable(offered),
        max_pods=whole(offered["pods"]) if "pods" in offered else 110,
        slices={
            size: whole(quantity)
            for name, quantity in offered.items()
            if (size := parse_resource(name)) is not None
        },
        offers_gb=whole(offered.get(GB_RESOURCE, 0)) > 0,
        applied=(metadata.get("annotations") or {}).get(APPLIED_ANNOTATION) or "",
    )


def parse_namespace(obj: Json) -> Labels:
    """The labels of a Namespace object, with the one that the API server gives to each; errors as
    parse_pod's.
    """
    check_shape(obj, NAMESPACE)
    metadata = obj["metadata"]
    return {**(metadata.get("labels") or {}), NAMESPACE_NAME: metadata["name"]}


def _is_ready(status: Json) -> bool:
    conditions = status.get("conditions")
    if not conditions:  # a manifest without conditions describes a node that is meant to work
        return True
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def slice_sizes(container: Json) -> list[SliceSize]:
    """The slices that a container asks for; a request counts where there is no limit yet."""
    resources = container.get("resources") or {}
    merged = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    sizes: list[SliceSize] = []
    for name, quantity in merged.items():
        size = parse_resource(name)
        if size is not None:
            sizes += [size] * min(whole(quantity), _MOST_SLICES - len(sizes))
    return sizes


def _claims(init_containers: Iterable[Json], containers: Iterable[Json]) -> Iterable[SliceClaim]:
    taken: dict[SliceSize, int] = {}  # seats of a size that are held to the end
    seats: dict[tuple[SliceSize, int], int] = {}  # (size, how manieth of that size) -> seat

    def claim(container: Json, *, lasting: bool) -> Iterable[SliceClaim]:
        offset: dict[SliceSize, int] = {}
        for size in slice_sizes(container):
            nth = taken.get(size, 0) + offset.get(size, 0)
            offset[size] = offset.get(size, 0) + 1
            yield SliceClaim(container["name"], size, seats.setdefault((size, nth), len(seats)))
        if lasting:
            for size, count in offset.items():
                taken[size] = taken.get(size, 0) + count

    for container in init_containers:
        yield from claim(container, lasting=is_sidecar(container))
    for container in containers:
        yield from claim(container, lasting=True)


def _constraints(spec: Json) -> Constraints:
    node_affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return Constraints(
        node_selector=tuple(
            sorted((key, value or "") for key, value in (spec.get("nodeSelector") or {}).items())
        ),
        affinity=None if required is None else parse_terms(required),
        tolerations=tuple(
            Toleration(
                t.get("key") or "",
                t.get("operator") or "Equal",
                t.get("value") or "",
                t.get("effect") or "",
            )
            for t in spec.get("tolerations") or ()
        ),
        gb=asks_for_gb(spec),
    )


def parse_terms(required: Json) -> tuple[NodeTerm, ...]:
    """The terms of a NodeSelector."""
    return tuple(
        NodeTerm(_expressions(term, "matchExpressions"), _expressions(term, "matchFields"))
        for term in required.get("nodeSelectorTerms") or ()
    )


def _expressions(term: Json, field: str) -> tuple[Expression, ...]:
    return tuple(
        Expression(e.get("key") or "", e.get("operator") or "", tuple(e.get("values") or ()))
        for e in term.get(field) or ()
    )
