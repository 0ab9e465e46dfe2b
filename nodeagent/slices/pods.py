"""What the agent needs to know of a pod: the slices that it asks for, and how far it has come.

Raw pods are projected to this as they arrive; one that does not concern us projects to None.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mpslice.errors import InvalidQuantity
from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION, SPREAD_OVER_GPUS
from mpslice.progress import PROGRESS, is_early
from mpslice.quantities import whole
from mpslice.slices import SliceSize, parse_resource

IN_HAND_SECONDS: Final = 60.0
"""How long an ungated pod without a verdict is taken to be in a scheduler's hands."""

_REFUSALS: Final = ("UnexpectedAdmissionError", "TopologyAffinityError")
_MIRROR: Final = "kubernetes.io/config.mirror"
_NOS_CONTAINER: Final = "nvidia-mps-server"  # by nos's chart, where its MPS daemon runs
_PLUGINS: Final = "/device-plugins"  # how the path of the kubelet's directory of plugins ends
_NOS_IMAGE = re.compile(r"(?:^|/)nebuly-ai/k8s-device-plugin(?:[:@]|$)", re.ASCII)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """One container that asks for a slice."""

    container: str
    size: SliceSize


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A slice pod, or one of nos's device plugin (`nos_plugin`), which needs none.

    `uid` is the kubelet's: a static pod's mirror has another one in the API.
    `admitted` says that the kubelet has decided about it (status.startTime is set then, by
    kubelet/status/status_manager.go; of a static pod before there is a mirror); `stopped`, that it
    is at its end and the kubelet has seen all its containers end, which a pod that is force-deleted
    lacks; `waiting_since` is a Unix time.
    `early` says that it still had its gate when it was `nominated`, so no scheduler has decided
    without that. `spread` is its group, namespace/name, if that is to be spread over GPUs.
    """

    key: str
    uid: str
    needs: tuple[Need, ...]
    node: str = ""
    nominated: str = ""
    early: bool = False
    ended: bool = False
    admitted: bool = False
    stopped: bool = False
    gated: bool = False
    unschedulable: bool = False
    waiting_since: float = 0.0
    refusal: str = ""
    nos_plugin: bool = False
    spread: str = ""

    def needs_any(self, sizes: Iterable[SliceSize]) -> bool:
        wanted = set(sizes)
        return any(need.size in wanted for need in self.needs)

    def on_its_way_to(
        self, node: str, now: float, *, old_status: bool, behind: bool = False
    ) -> bool:
        """Whether it may yet be bound to the node by a decision that is already made.

        A scheduler that has said Unschedulable decides anew when the node's status offers more, and
        takes this node also where the pod is nominated to another one that has no room for it yet.
        With `old_status` it may not have seen yet that the status offers less again. One that is
        `behind` sees all nodes as they were before an outage. A nomination to another node that
        came after the gate went tells what is decided next: a decision made before may be written
        to the API server again and again meanwhile (client-go, rest/with_retry.go). `now` is by the
        API server's clock; a pod of a time that is still to come is somebody's invention.
        """
        if self.node or self.ended or self.gated:
            return False
        if self.nominated == node:
            return True
        if self.unschedulable or self.early:
            # Where its node fails it, a scheduler tries the others at once.
            return behind or old_status
        return behind or abs(now - self.waiting_since) < IN_HAND_SECONDS


def project_pod(pod: Mapping[str, Any]) -> PodFacts | None:
    """The facts of a pod as the API has it; None when it asks for no slice and is not nos's plugin,
    which concerns us too, and when it cannot be read: it is to stop nothing for others."""
    try:
        return _facts(pod)
    except Exception as error:  # noqa: BLE001  # whatever somebody has written into it
        name = (pod.get("metadata") or {}).get("name")
        log.error("a pod could not be read", extra={"pod": name, "error": str(error)})
        return None


def _facts(pod: Mapping[str, Any]) -> PodFacts | None:
    spec, status, metadata = pod.get("spec") or {}, pod.get("status") or {}, pod["metadata"]
    needs, nos_plugin = _needs(spec), _is_nos_plugin(spec)
    if not needs and not nos_plugin:
        return None
    scheduled = _scheduled_condition(status)
    annotations = metadata.get("annotations") or {}
    nominated = status.get("nominatedNodeName") or ""
    verdict = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    mirror = annotations.get(_MIRROR)
    ended = status.get("phase") in ("Succeeded", "Failed")
    return PodFacts(
        key=f"{metadata.get('namespace', '')}/{metadata['name']}",
        uid=str(mirror or metadata.get("uid") or ""),
        needs=needs,
        node=spec.get("nodeName") or "",
        nominated=nominated,
        early=is_early(annotations.get(PROGRESS) or "", nominated),
        ended=ended,
        admitted=bool(mirror or status.get("startTime")),
        stopped=bool(ended or metadata.get("deletionTimestamp")) and not _runs(status),
        gated=bool(spec.get("schedulingGates")),
        unschedulable=verdict,
        waiting_since=max(
            unix_time(metadata.get("creationTimestamp")),
            unix_time(scheduled.get("lastTransitionTime")),
            _changed_at(metadata),
        ),
        refusal=_refusal(status),
        nos_plugin=nos_plugin,
        spread=_spread(metadata),
    )


def _spread(metadata: Mapping[str, Any]) -> str:
    group = (metadata.get("labels") or {}).get(GROUP_LABEL)
    said = (metadata.get("annotations") or {}).get(SPREAD_ANNOTATION)
    return f"{metadata.get('namespace', '')}/{group}" if group and said == SPREAD_OVER_GPUS else ""


def _needs(spec: Mapping[str, Any]) -> tuple[Need, ...]:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return tuple(
        Need(container["name"], size)
        for container in containers
        for size in sorted(_sizes(container.get("resources") or {}))
    )


def _is_nos_plugin(spec: Mapping[str, Any]) -> bool:
    """A name alone, which anybody may give a container, stops nothing on the node: a device plugin
    mounts the kubelet's directory."""
    mounts = (volume.get("hostPath") or {} for volume in spec.get("volumes") or ())
    return any(
        container["name"] == _NOS_CONTAINER or _NOS_IMAGE.search(container.get("image") or "")
        for container in spec.get("containers") or ()
    ) and any((mount.get("path") or "").rstrip("/").endswith(_PLUGINS) for mount in mounts)


def _sizes(resources: Mapping[str, Any]) -> set[SliceSize]:
    sizes = set()
    for part in ("limits", "requests"):
        for name, quantity in (resources.get(part) or {}).items():
            size = parse_resource(name)
            if size is not None and _is_some(quantity):
                sizes.add(size)
    return sizes


def _is_some(quantity: object) -> bool:
    try:
        return whole(quantity) > 0
    except InvalidQuantity:
        return False  # the API server takes none such


def _runs(status: Mapping[str, Any]) -> bool:
    parts = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    statuses = [entry for part in parts for entry in status.get(part) or ()]
    return any("running" in (entry.get("state") or {}) for entry in statuses)


def _scheduled_condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = status.get("conditions") or ()
    return next((c for c in conditions if c.get("type") == "PodScheduled"), {})


def _refusal(status: Mapping[str, Any]) -> str:
    # kubelet/lifecycle/predicate.go: OutOf and the resource's name; cm/topologymanager has its own.
    reason = str(status.get("reason") or "")
    refused = reason in _REFUSALS or reason.startswith("OutOf")
    return reason if refused and status.get("phase") == "Failed" else ""


def _changed_at(metadata: Mapping[str, Any]) -> float:
    """When somebody last changed the pod itself, as who takes its gates away: its status does not
    tell of that (pkg/registry/core/pod/strategy.go, podStrategy.PrepareForUpdate keeps it).
    """
    entries = metadata.get("managedFields") or ()
    times = (entry.get("time") for entry in entries if not entry.get("subresource"))
    return max(map(unix_time, times), default=0.0)


def unix_time(time: object) -> float:
    """Of a time as Kubernetes writes it; 0 for none, and for a year that Python does not know."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) and time else 0.0
    except (ValueError, OverflowError):
        return 0.0  # managedFields are what their sender says
