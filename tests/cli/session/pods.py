"""The nodes and pods of the session: what holds slices, and one pod for each cause.

They are objects alone; world.py puts them on a cluster.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mpslice.kube.api import Json
from mpslice.progress import PROGRESS
from planner.model.plan import Cause
from planner.progress.note import time_text
from tests.cli.objects import HOSTNAME, ZONE, anti_affinity, zone_spread
from tests.planner.pods import slice_pod

TEAM: Final = "research"
RELEASE: Final = "mpslice-system"
GB: Final = 85  # an A100 of 80 GB
GPUS: Final = {f"n{number}": [GB] * 8 for number in range(1, 6)}
ZONES: Final = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": "c"}
SLOTS: Final = 4  # the planner's --max-slices-per-gpu here

HELD: Final[Mapping[str, list[list[int]]]] = {
    "n1": [*([80] for _ in range(7)), [60]],
    "n2": [[40, 40] for _ in range(4)],
    "n3": [*([20] * 4 for _ in range(3)), [10, 10, 10], [10]],
    "n4": [[10] * SLOTS],
}
"""The slices that pods hold before the session's own pods come, by node and GPU."""

NOT_PLAYED: Final = {
    Cause.NODE_NAME: "no decision gives it: a pod that names its node is bound there",
    Cause.AVOIDED: (
        "no pod keeps it: one that is left with nodes that have refused it backs off at once, "
        "which is Backoff"
    ),
}
"""Causes that no pod of the session has, and why."""

NAMES: Final = {"n1": "train", "n2": "vision", "n3": "serve", "n4": "notebook"}
WEB: Final = {"app": "web"}


def on(node: str) -> Json:
    return {"nodeSelector": {HOSTNAME: node}}


def waiting() -> dict[Cause, Json]:
    """A pod for each cause, in the order of the queue: the one that waits longest, then by name.

    In which they are to be made, too: the planner writes a place in the queue that is no longer
    right anew after a minute only.
    """
    soon = time_text(datetime.now(UTC) + timedelta(minutes=5))
    backoff = {"attempts": 5, "until": soon, "words": "refused on n3: the scheduler found no port"}
    long_ago = time_text(datetime.now(UTC) - timedelta(minutes=10))
    in_b_or_c = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["b", "c"]}]}
    zones = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [in_b_or_c]}
        }
    }
    data = {"name": "data", "persistentVolumeClaim": {"claimName": "corpus"}}
    found = {
        Cause.BACKOFF: pod("backoff", 10, notes={PROGRESS: json.dumps({"backoff": backoff})}),
        Cause.CPU: pod("cpu", 10, requests={"cpu": "64"}),
        Cause.EPHEMERAL_STORAGE: pod("disk", 10, requests={"ephemeral-storage": "2Ti"}),
        Cause.EXTENDED_RESOURCE: pod("fabric", 10, limits={"rdma/hca": "1"}),
        Cause.GATED: pod("gated", 10, gates=["example.com/budget"]),
        Cause.GPU_SLOTS: pod("many", 10, **on("n4")),
        Cause.GPU_TOO_SMALL: pod("large", 96),
        Cause.GPU_MEMORY: pod(
            "old", 40, notes={PROGRESS: json.dumps({"since": long_ago})}, **on("n1")
        ),
        Cause.GROUP: pod(
            "ranks-0",
            4,
            labels={"scheduling.x-k8s.io/pod-group": "ranks"},
            notes={"mpslice.io/min-member": "3"},
        ),
        Cause.HOST_PORT: pod("port", 10, port=9000, **on("n1")),
        Cause.MEMORY: pod("memory", 10, requests={"memory": "512Gi"}),
        Cause.NODE_AFFINITY: pod("model", 10, nodeSelector={"gpu": "h100"}),
        Cause.POD_AFFINITY: pod("apart", 10, affinity=anti_affinity(WEB), **on("n3")),
        Cause.PODS: pod("places", 10, **on("n5")),
        Cause.RESERVED: pod("young", 20, **on("n1")),
        Cause.TAINT: pod("taint", 10, **on("n2")),
        Cause.TOPOLOGY_SPREAD: pod(
            "spread", 10, labels=WEB, affinity=zones, topologySpreadConstraints=[zone_spread(WEB)]
        ),
        Cause.VOLUME: pod("volume", 10, volumes=[data]),
    }

    def turn(item: tuple[Cause, Json]) -> tuple[bool, str]:
        cause, made = item
        return cause is not Cause.GPU_MEMORY, str(made["metadata"]["name"])

    return dict(sorted(found.items(), key=turn))


def pod(
    name: str,
    size: int,
    *,
    labels: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    gates: Iterable[str] = (),
    port: int = 0,
    **spec: Any,
) -> Json:
    """A slice pod as admission leaves it; without a size one that asks for none."""
    made = slice_pod(name, size or 1, gated=bool(size) and "nodeName" not in spec, **spec)
    made["metadata"] = {
        "name": name,
        "namespace": TEAM,
        "labels": dict(labels or {}),
        "annotations": dict(notes or {}),
    }
    (container,) = made["spec"]["containers"]
    resources = container["resources"]
    if not size:
        resources["limits"] = {}
    resources["limits"].update(limits or {})
    resources["requests"] = {**resources["limits"], **(requests or {})}
    if port:
        container["ports"] = [{"containerPort": port, "hostPort": port}]
    if gates:
        made["spec"]["schedulingGates"] += [{"name": gate} for gate in gates]
    return made


def holding() -> list[Json]:
    """The pods that run when the waiting ones come, and three beside them that hold no slice.

    The last by name come first: of two pods whose end would help the younger is named first, and
    those of one second by name.
    """
    found = [
        pod(f"{NAMES[node]}-{number}", size, nodeName=node)
        for node, gpus in HELD.items()
        for number, size in enumerate(size for sizes in gpus for size in sizes)
    ]
    return [
        *sorted(found, key=lambda made: str(made["metadata"]["name"]), reverse=True),
        pod("exporter", 0, port=9000, nodeName="n1"),
        *(pod(f"web-{number}", 0, labels=WEB, nodeName="n3") for number in range(2)),
    ]
