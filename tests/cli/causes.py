"""A cluster for each cause for which a pod waits: the objects as an API server answers them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mpslice.kube.api import Json, Resource
from planner.model.plan import Cause
from planner.model.pods import GATE
from planner.progress.machine import Progress
from planner.state.volumes import CLAIMS, VOLUMES
from tests.cli.fake_api import cluster
from tests.cli.objects import ZONE, anti_affinity, gpu, layout, node, pod, taint, zone_spread

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = "2026-01-01T11:50:00Z"
OTHERS = {"app": "other"}
BACKOFF = (
    '{"backoff":{"attempts":4,"until":"2026-01-01T12:01:00Z","words":"refused on n1: no port"}}'
)


@dataclass(frozen=True)
class Case:
    """A cluster in which pod `p` waits for the cause; `told` is what each way says.

    `helps` is part of a remedy that `why` has with all rights. `remembers` is what only a planner
    that has run for a while knows of the pod.
    """

    cause: Cause
    told: str
    nodes: Iterable[Json] = field(default_factory=lambda: [node("n1")])
    layouts: Iterable[Json] = field(default_factory=lambda: [layout("n1", gpu("n1", 0, 80))])
    wants: dict[str, Any] = field(default_factory=dict)
    size: int = 40
    others: Iterable[Json] = ()
    more: Iterable[tuple[Resource, Json]] = ()
    helps: str = ""
    remembers: Progress | None = None

    @property
    def objects(self) -> list[tuple[Resource, Json]]:
        pods = [pod("p", self.size, **self.wants), *self.others]
        return [*cluster(nodes=self.nodes, layouts=self.layouts, pods=pods), *self.more]


def ports(number: int) -> Json:
    container = {"name": "web", "image": "none", "restartPolicy": "Always"}
    return {**container, "ports": [{"containerPort": number, "hostPort": number}]}


def claim(name: str, volume: str) -> tuple[Resource, Json]:
    metadata = {"name": name, "namespace": "team-a"}
    return CLAIMS, {"metadata": metadata, "spec": {"volumeName": volume}}


def volume(name: str, zone: str) -> tuple[Resource, Json]:
    terms = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    return VOLUMES, {"metadata": {"name": name}, "spec": {"nodeAffinity": affinity}}


USES_DATA = {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}

CASES = [
    Case(Cause.NOT_READY, "1 NotReady", nodes=[node("n1", ready=False)], helps="come back"),
    Case(
        Cause.UNSCHEDULABLE,
        "1 Unschedulable",
        nodes=[node("n1", cordoned=True)],
        helps="kubectl uncordon n1",
    ),
    Case(
        Cause.NODE_AFFINITY,
        "1 NodeAffinity (wants zone=b)",
        wants={"nodeSelector": {"zone": "b"}},
        helps="kubectl label node n1 zone=b",
    ),
    Case(
        Cause.TAINT,
        "1 Taint (nvidia.com/gpu=present:NoSchedule)",
        nodes=[node("n1", taints=[taint("nvidia.com/gpu", "present")])],
        helps="{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoSchedule}",
    ),
    Case(
        Cause.HOST_PORT,
        "1 HostPort (8080/TCP taken)",
        wants={"initContainers": [ports(8080)]},
        others=[pod("web", on="n1", initContainers=[ports(8080)])],
        helps="the end of team-a/web (on n1, priority 0)",
    ),
    Case(
        Cause.CPU,
        "1 CPU (wants 64, most free 32)",
        wants={"requests": {"cpu": "64"}},
        helps="at most 32 CPU instead of 64",
    ),
    Case(
        Cause.MEMORY,
        "1 Memory (wants 524288Mi, most free 262144Mi)",
        wants={"requests": {"memory": "512Gi"}},
        helps="at most 262144Mi of memory",
    ),
    Case(
        Cause.EPHEMERAL_STORAGE,
        "1 EphemeralStorage (wants 2048Mi, most free 1024Mi)",
        nodes=[node("n1", amounts={"ephemeral-storage": "1Gi"})],
        wants={"requests": {"ephemeral-storage": "2Gi"}},
        helps="less ephemeral storage",
    ),
    Case(
        Cause.PODS,
        "1 Pods",
        nodes=[node("n1", amounts={"pods": "1"})],
        others=[pod("web", on="n1")],
        helps="the end of team-a/web",
    ),
    Case(
        Cause.EXTENDED_RESOURCE,
        "1 ExtendedResource (rdma/hca: wants 1, most free 0)",
        wants={"requests": {"rdma/hca": "1"}},
        helps="less of the resource",
    ),
    Case(
        Cause.VOLUME,
        "1 Volume (a bound PersistentVolume cannot be reached from there)",
        nodes=[node("n1", labels={ZONE: "a"})],
        wants=USES_DATA,
        more=[claim("data", "v"), volume("v", "b")],
        helps="PersistentVolume that is named",
    ),
    Case(
        Cause.VOLUME,
        "Volume (PersistentVolumeClaim team-a/data does not exist)",
        wants=USES_DATA,
        helps="PersistentVolumeClaim",
    ),
    Case(
        Cause.POD_AFFINITY,
        "1 PodAffinity",
        wants={"affinity": anti_affinity(OTHERS)},
        others=[pod("web", on="n1", labels=OTHERS)],
        helps="anti-affinity to other pods",
    ),
    Case(
        Cause.TOPOLOGY_SPREAD,
        "TopologySpread",
        nodes=[node("n1", labels={ZONE: "a"}), node("n2", labels={ZONE: "b"}, handed_over=False)],
        wants={"labels": OTHERS, "topologySpreadConstraints": [zone_spread(OTHERS)]},
        others=[pod("web", on="n1", labels=OTHERS)],
        helps="maxSkew",
    ),
    Case(
        Cause.GPU_TOO_SMALL,
        "1 GPUTooSmall (largest 16gb)",
        layouts=[layout("n1", gpu("n1", 0, 16))],
        helps="a slice of 16gb instead of 40gb has a place now on n1",
    ),
    Case(
        Cause.GPU_SLOTS,
        "1 GPUSlots",
        layouts=[layout("n1", gpu("n1", 0, 80, *[(1, f"team-a/s{n}") for n in range(48)]))],
        others=[pod(f"s{n}", 1, on="n1") for n in range(48)],
        size=10,
        helps="the end of team-a/s0 (1gb on n1 GPU 0, priority 0)",
    ),
    Case(
        Cause.GPU_MEMORY,
        "1 GPUMemory (largest hole 20gb on n1 GPU 0)",
        layouts=[layout("n1", gpu("n1", 0, 80, (60, "team-a/big")))],
        others=[pod("big", 60, on="n1")],
        helps="the end of team-a/big (60gb on n1 GPU 0, priority 0)",
    ),
    Case(
        Cause.NO_NODE,
        "0 of 0 nodes: no node is labelled nos.nebuly.com/gpu-partitioning=mps",
        nodes=[node("n1", handed_over=False, amounts={"nvidia.com/gpu": "2"})],
        layouts=[],
        helps="kubectl label node n1 nos.nebuly.com/gpu-partitioning=mps",
    ),
    Case(
        Cause.GROUP,
        "Group (group g has 1 of 3 pods; create 2 more)",
        wants={
            "labels": {"scheduling.x-k8s.io/pod-group": "g"},
            "annotations": {"mpslice.io/min-member": "3"},
        },
        helps="create the group's missing pods",
    ),
    Case(
        Cause.RESERVED,
        "Reserved (what is left on n1 is kept for team-a/old)",
        layouts=[layout("n1", gpu("n1", 0, 80, (50, "team-a/big")))],
        others=[pod("big", 50, on="n1"), pod("old", 60, gates=[GATE], created=LONG_AGO)],
        size=20,
        helps="another pod has waited longer",
    ),
    Case(
        Cause.BACKOFF,
        "Backoff (refused on n1: no port; tried again at 2026-01-01T12:01:00Z)",
        wants={"annotations": {"mpslice.io/progress": BACKOFF}},
        helps="correct what is quoted",
    ),
    Case(
        Cause.AVOIDED,
        "1 Avoided (the scheduler did not bind it there)",
        remembers=Progress(avoided=("n1",), words="the scheduler found no port", tried=1),
    ),
    Case(
        Cause.GATED,
        "example.com/quota",
        wants={"gates": [GATE, "example.com/quota"]},
        helps="the program that set the scheduling gate has to remove it",
    ),
]

UNREACHABLE = {
    Cause.NODE_NAME: "no decision gives it: a pod that names its node is bound to it already"
}
"""Causes that no state of a cluster leads to, and why."""
