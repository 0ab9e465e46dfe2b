"""What a pod requests of a node's resources, from Kubernetes JSON, and what a node offers.

Follows component-helpers/resource/helpers.go (PodRequests) as the scheduler's NodeInfo calls it:
the larger of what runs together and of what each init container needs beside the sidecars before
it; for a pod that is being resized the larger of spec and status; pod-level requests in their
place; plus the overhead. Defaults of the API server (pkg/apis/core/v1/defaults.go) are filled in,
because a manifest has not been there yet.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from mpslice.quantities import milli, whole
from mpslice.slices import GB_RESOURCE, parse_resource
from planner.model.constraints import ANY_ADDRESS, HostPort, Resources

Json = Mapping[str, Any]
Amounts = dict[str, int]

_OWN_FIELDS: Final = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
_POD_LEVEL: Final = frozenset({"cpu", "memory"})
_HUGE_PAGES: Final = "hugepages-"


def is_sidecar(container: Json) -> bool:
    """An init container that goes on running beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def pod_requests(spec: Json, status: Json) -> Resources:
    """Everything a pod takes of a node but its slices and their gb; raises InvalidQuantity."""
    amounts = _containers(spec, _Reported(status))
    _put_pod_level(amounts, spec.get("resources") or {}, status)
    _add(amounts, _amounts(spec.get("overhead") or {}))
    return _to_resources(amounts)


def allocatable(quantities: Json) -> Resources:
    """What a node's status offers; raises InvalidQuantity."""
    return _to_resources(_amounts(quantities))


class _Reported:
    """What the kubelet reports of a pod's containers: allocated and in force (KEP-1287)."""

    __slots__ = ("_by_name", "_refused")

    def __init__(self, status: Json) -> None:
        self._by_name: dict[str, Json] = {
            entry["name"]: entry
            for group in ("containerStatuses", "initContainerStatuses")
            for entry in status.get(group) or ()
            if entry.get("resources") is not None
        }
        self._refused = bool(self._by_name) and is_resize_infeasible(status)

    def requests(self, container: Json) -> Amounts:
        """Of a container that keeps running: the larger of spec and status, for each resource.

        A resize that the node can never grant leaves the spec out (determineEffectiveRequests).
        """
        entry = self._by_name.get(container["name"]) if self._by_name else None
        if entry is None:
            return _container_requests(container)
        actuated = entry["resources"].get("requests") or {}
        allocated = entry.get("allocatedResources") or {}
        return _effective(_container_requests(container), actuated, allocated, self._refused)


def is_resize_infeasible(status: Json) -> bool:
    """IsPodResizeInfeasible: the condition PodResizePending has the reason Infeasible."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodResizePending":
            return bool(condition.get("reason") == "Infeasible")
    return False


def _effective(spec: Amounts, actuated: Json, allocated: Json, refused: bool) -> Amounts:
    peak = {} if refused else spec
    _raise_to(peak, _amounts(actuated))
    _raise_to(peak, _amounts(allocated))
    return peak


def _containers(spec: Json, reported: _Reported) -> Amounts:
    """AggregateContainerRequests."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        if is_sidecar(container):
            _add(running, reported.requests(container))
            _raise_to(peak, running)
        else:
            alone = _container_requests(container)
            _add(alone, running)
            _raise_to(peak, alone)
    for container in spec.get("containers") or ():
        _add(running, reported.requests(container))
    _raise_to(peak, running)
    return peak


def _put_pod_level(amounts: Amounts, resources: Json, status: Json) -> None:
    """Pod-level requests stand for the sum of the containers' (KEP-2837).

    Where there is only a pod-level limit it is the request too, unless containers request some of
    the resource (defaultPodRequests).
    """
    if not resources:
        return
    requests = _supported(resources.get("requests"))
    for name, amount in _supported(resources.get("limits")).items():
        if name not in amounts or name.startswith(_HUGE_PAGES):
            requests.setdefault(name, amount)
    reported = status.get("resources")
    if reported is not None:
        names = set(requests)
        actuated, allocated = reported.get("requests") or {}, status.get("allocatedResources") or {}
        larger = _effective(requests, actuated, allocated, is_resize_infeasible(status))
        requests = {name: larger.get(name, 0) for name in names}
    amounts.update(requests)


def _supported(quantities: Json | None) -> Amounts:
    return _amounts(
        {
            name: quantity
            for name, quantity in (quantities or {}).items()
            if name in _POD_LEVEL or name.startswith(_HUGE_PAGES)
        }
    )


def _container_requests(container: Json) -> Amounts:
    resources = container.get("resources")
    if not resources:
        return {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(quantities: Json) -> Amounts:
    return {
        name: milli(quantity) if name == "cpu" else whole(quantity)
        for name, quantity in quantities.items()
    }


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(peak: Amounts, floor: Mapping[str, int]) -> None:
    for name, amount in floor.items():
        if amount > peak.get(name, -1):
            peak[name] = amount


def _to_resources(amounts: Mapping[str, int]) -> Resources:
    return Resources(
        cpu_milli=amounts.get("cpu", 0),
        memory=amounts.get("memory", 0),
        ephemeral=amounts.get("ephemeral-storage", 0),
        extended=tuple(
            sorted(
                (name, amount)
                for name, amount in amounts.items()
                if name not in _OWN_FIELDS and parse_resource(name) is None and name != GB_RESOURCE
            )
        ),
    )


def asks_for_gb(spec: Json) -> bool:
    """Whether a container asks for mpslice.io/gb; raises InvalidQuantity."""
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        requests = (container.get("resources") or {}).get("requests") or {}
        if GB_RESOURCE in requests and whole(requests[GB_RESOURCE]) > 0:
            return True
    return False


def host_ports(spec: Json) -> Iterable[HostPort]:
    """What a pod takes of the node's own ports, each once.

    Only of what keeps running: init containers that end do not count (pkg/scheduler/util/utils.go,
    GetHostPorts). On the host's network every port is the host's (defaultHostNetworkPorts).
    """
    found: dict[HostPort, None] = {}
    on_host = bool(spec.get("hostNetwork"))
    sidecars = (c for c in spec.get("initContainers") or () if is_sidecar(c))
    for container in (*sidecars, *(spec.get("containers") or ())):
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if on_host else 0)
            if number:
                protocol, ip = port.get("protocol") or "TCP", port.get("hostIP") or ANY_ADDRESS
                found[HostPort(int(number), protocol, ip)] = None
    return found
