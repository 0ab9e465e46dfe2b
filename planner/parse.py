"""Kubernetes JSON to the planner's records: the edge behind which nothing is a dict any more.

Requests follow component-helpers/resource/helpers.go: the larger of what runs together and of what
each init container needs beside the sidecars before it, plus the overhead.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mpslice.quantities import milli, whole
from mpslice.slices import SliceSize, parse_resource
from planner.model import (
    Constraints,
    Expression,
    HostPort,
    Node,
    NodeTerm,
    Pod,
    Resources,
    SliceClaim,
    Taint,
    Toleration,
)

Json = Mapping[str, Any]

GROUP_LABEL: Final = "scheduling.x-k8s.io/pod-group"
MIN_MEMBER_ANNOTATION: Final = "mpslice.io/min-member"

_FINISHED: Final = frozenset({"Succeeded", "Failed"})
_MOST_SLICES: Final = 1024  # in one container: more than any node holds, few enough to count
_COUNT: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_OWN_FIELDS: Final = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})


def parse_pod(obj: Json) -> Pod:
    """A Pod object; raises InvalidQuantity, or KeyError and the like for what is no pod at all."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    containers = spec.get("containers") or ()
    init_containers = spec.get("initContainers") or ()
    labels = metadata.get("labels") or {}
    return Pod(
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        resource_version=metadata.get("resourceVersion") or "",
        created=metadata.get("creationTimestamp") or "",
        priority=int(spec.get("priority") or 0),
        node=spec.get("nodeName") or "",
        finished=status.get("phase") in _FINISHED,
        terminating=bool(metadata.get("deletionTimestamp")),
        gates=tuple(str(gate.get("name") or "") for gate in spec.get("schedulingGates") or ()),
        claims=tuple(_claims(init_containers, containers)),
        requests=_pod_requests(spec, init_containers, containers),
        ports=tuple(_host_ports(containers, init_containers)),
        constraints=_constraints(spec),
        labels=labels,
        group=labels.get(GROUP_LABEL) or "",
        min_member=_min_member(metadata.get("annotations") or {}),
    )


def _min_member(annotations: Json) -> int | None:
    """A positive whole number, or None: what is no number says nothing."""
    text = str(annotations.get(MIN_MEMBER_ANNOTATION) or "")
    return int(text) if _COUNT.fullmatch(text) else None


def parse_node(obj: Json) -> Node:
    """A Node object; errors as parse_pod's."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    allocatable = status.get("allocatable") or status.get("capacity") or {}
    return Node(
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        labels=metadata.get("labels") or {},
        taints=tuple(
            Taint(taint["key"], taint.get("value") or "", taint.get("effect") or "")
            for taint in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=_is_ready(status),
        allocatable=_resources(allocatable),
        max_pods=whole(allocatable["pods"]) if "pods" in allocatable else 110,
        slices={
            size: whole(quantity)
            for name, quantity in allocatable.items()
            if (size := parse_resource(name)) is not None
        },
    )


def _is_ready(status: Json) -> bool:
    conditions = status.get("conditions")
    if not conditions:  # a manifest without conditions describes a node that is meant to work
        return True
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def is_sidecar(container: Json) -> bool:
    """An init container that goes on running beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def slice_sizes(container: Json) -> list[SliceSize]:
    """The slices that a container asks for; a request counts where there is no limit yet."""
    resources = container.get("resources") or {}
    merged = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    sizes: list[SliceSize] = []
    for name, quantity in merged.items():
        size = parse_resource(name)
        if size is not None:
            sizes += [size] * min(whole(quantity), _MOST_SLICES)
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


def _pod_requests(
    spec: Json, init_containers: Iterable[Json], containers: Iterable[Json]
) -> Resources:
    running: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in init_containers:
        own = _container_requests(container)
        if is_sidecar(container):
            _add(running, own)
            _raise_to(peak, running)
        else:
            _raise_to(peak, _sum(running, own))
    for container in containers:
        _add(running, _container_requests(container))
    _raise_to(peak, running)
    # Pod-level resources stand for the sum of the containers' (KEP-2837).
    peak.update(_amounts((spec.get("resources") or {}).get("requests") or {}))
    _add(peak, _amounts(spec.get("overhead") or {}))
    return _to_resources(peak)


def _container_requests(container: Json) -> dict[str, int]:
    resources = container.get("resources") or {}
    # The API server fills in a request from its limit; a manifest has not been there yet.
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(quantities: Json) -> dict[str, int]:
    return {
        name: milli(quantity) if name == "cpu" else whole(quantity)
        for name, quantity in quantities.items()
    }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    total = dict(left)
    _add(total, right)
    return total


def _raise_to(peak: dict[str, int], floor: Mapping[str, int]) -> None:
    for name, amount in floor.items():
        peak[name] = max(peak.get(name, 0), amount)


def _resources(quantities: Json) -> Resources:
    return _to_resources(_amounts(quantities))


def _to_resources(amounts: Mapping[str, int]) -> Resources:
    return Resources(
        cpu_milli=amounts.get("cpu", 0),
        memory=amounts.get("memory", 0),
        ephemeral=amounts.get("ephemeral-storage", 0),
        extended=tuple(
            sorted(
                (name, amount)
                for name, amount in amounts.items()
                if name not in _OWN_FIELDS and parse_resource(name) is None
            )
        ),
    )


def _host_ports(*groups: Iterable[Json]) -> Iterable[HostPort]:
    for group in groups:
        for container in group:
            for port in container.get("ports") or ():
                if port.get("hostPort"):
                    yield HostPort(
                        int(port["hostPort"]),
                        port.get("protocol") or "TCP",
                        port.get("hostIP") or "0.0.0.0",
                    )


def _constraints(spec: Json) -> Constraints:
    node_affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return Constraints(
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        affinity=None if required is None else _terms(required),
        tolerations=tuple(
            Toleration(
                t.get("key") or "",
                t.get("operator") or "Equal",
                t.get("value") or "",
                t.get("effect") or "",
            )
            for t in spec.get("tolerations") or ()
        ),
    )


def _terms(required: Json) -> tuple[NodeTerm, ...]:
    return tuple(
        NodeTerm(_expressions(term, "matchExpressions"), _expressions(term, "matchFields"))
        for term in required.get("nodeSelectorTerms") or ()
    )


def _expressions(term: Json, field: str) -> tuple[Expression, ...]:
    return tuple(
        Expression(e["key"], e["operator"], tuple(e.get("values") or ()))
        for e in term.get(field) or ()
    )
