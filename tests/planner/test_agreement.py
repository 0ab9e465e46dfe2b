"""The planner's feasibility beside the stock scheduler's, which is asked about many random pods."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest

from mpslice.gpus import GpuUuid
from mpslice.kube.api import NAMESPACES, NODES, PODS, Json, PatchType, list_all
from mpslice.kube.errors import KubeError
from mpslice.kube.session import Session
from mpslice.nodelayout import (
    Condition,
    ConditionType,
    GpuStatus,
    LayoutStatus,
    NodeLayout,
)
from mpslice.slices import SliceSize, resource_name
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing import plan
from planner.state.parse import parse_namespace, parse_node, parse_pod
from planner.state.snapshot import build_snapshot
from tests.planner.agents import LABEL, add_node
from tests.planner.varied import SIZES, is_cordoned, node_labels, node_taints, varied_pods
from tests.waiting import eventually

pytestmark = pytest.mark.versions

log = logging.getLogger(__name__)

_SEED = 42
_PODS = 500
_PLENTY = 100_000  # gb and slices: more than all pods of a test need


async def add_varied_nodes(kube: Session, count: int, *, cpu: str) -> list[str]:
    names = [f"n{index:02}" for index in range(count)]
    for index, name in enumerate(names):
        await add_node(kube, name, labels={**LABEL, **node_labels(index)}, cpu=cpu)
        spec = {"taints": node_taints(index), "unschedulable": is_cordoned(index)}
        await kube.patch(NODES, name, {"spec": spec}, type=PatchType.MERGE)
    for index, name in enumerate(names):
        if is_cordoned(index):
            await eventually(partial(_is_tainted, kube, name), f"{name} is tainted as cordoned")
    return names


async def _is_tainted(kube: Session, name: str) -> bool:
    node = await kube.read(NODES, name)
    taints = node["spec"].get("taints") or ()
    return any(taint["key"] == "node.kubernetes.io/unschedulable" for taint in taints)


async def show_plenty(kube: Session, names: Iterable[str]) -> None:
    quantities = {resource_name(SliceSize(size)): str(_PLENTY) for size in SIZES}
    body = {"status": {"capacity": quantities, "allocatable": quantities}}
    for name in names:
        await kube.patch(NODES, name, body, type=PatchType.MERGE, subresource="status")


async def add_namespace(kube: Session, name: str, labels: dict[str, str]) -> None:
    """With labels, and ready for pods; it stays for the tests to come."""
    known = {item["metadata"]["name"] for item in await list_all(kube, NAMESPACES)}
    if name not in known:
        await kube.create(NAMESPACES, {"metadata": {"name": name, "labels": labels}})

    async def takes_pods() -> bool:
        probe = varied_pods(1, 0)[0]
        probe["metadata"] = {"name": "probe", "namespace": name}
        try:
            await kube.create(PODS, probe, namespace=name)
        except KubeError:  # its service account is not there yet
            return False
        await kube.delete(PODS, "probe", namespace=name, grace_seconds=0)
        return True

    await eventually(takes_pods, f"namespace {name} takes pods")


def roomy(node: str) -> NodeLayout:
    """A layout whose GPU is never what a pod lacks."""
    gpu = GpuStatus(GpuUuid(f"{node}-gpu"), 0, "Test", _PLENTY, _PLENTY)
    ready = Condition(ConditionType.READY, True, "Test")
    return NodeLayout(node, status=LayoutStatus(gpus=(gpu,), conditions=(ready,)))


async def judged(kube: Session, pod: Json) -> str:
    """The node on which the scheduler has put the pod, "" once it has said that there is none."""
    metadata = pod["metadata"]

    async def answer() -> tuple[str] | None:
        item = await kube.read(PODS, metadata["name"], namespace=metadata["namespace"])
        return (item["spec"].get("nodeName") or "",) if is_judged(item) else None

    answered = await eventually(answer, f"{metadata['name']} is judged", every=0.004)
    return (answered or ("",))[0]


def is_judged(item: Json) -> bool:
    conditions = (item.get("status") or {}).get("conditions") or ()
    said = any(c.get("reason") == "Unschedulable" for c in conditions)
    return bool(item["spec"].get("nodeName")) or said


class Judge:
    """What the planner thinks of one pod at a time, all bound ones given."""

    def __init__(self, nodes: list[Node], namespaces: dict[str, dict[str, str]]) -> None:
        self.bound: list[Pod] = []
        self._nodes = nodes
        self._namespaces = namespaces

    def snapshot(self) -> Snapshot:
        return build_snapshot(
            self._nodes,
            {node.name: roomy(node.name) for node in self._nodes},
            self.bound,
            max_slices_per_gpu=_PLENTY,
            all_nodes=self._nodes,
            namespaces=self._namespaces,
        )

    def fits(self, pod: Pod) -> Callable[[str], bool]:
        """Whether the pod fits a node; for "" whether it fits any."""
        snapshot = self.snapshot()

        def on(name: str) -> bool:
            chosen = tuple(s for s in snapshot.nodes if name in ("", s.node.name))
            return bool(plan(replace(snapshot, nodes=chosen), [pod]).placements)

        return on


async def test_scheduler_and_planner_agree_on_every_single_pod(
    kube: Session,
) -> None:
    """One pod after the other: it is bound where the planner says that it fits, or fits nowhere."""
    names = await add_varied_nodes(kube, 12, cpu="8")
    await show_plenty(kube, names)
    await add_namespace(kube, "other", {"team": "x"})
    nodes = [parse_node(item) for item in await list_all(kube, NODES)]
    spaces = {
        item["metadata"]["name"]: dict(parse_namespace(item))
        for item in await list_all(kube, NAMESPACES)
    }
    ours = Judge(nodes, spaces)
    outcome: Counter[str] = Counter()
    for manifest in varied_pods(_PODS, _SEED, namespaces=("default", "other"), gated=False):
        metadata = manifest["metadata"]
        created = await kube.create(PODS, manifest, namespace=metadata["namespace"])
        pod = parse_pod(created)
        fits = ours.fits(pod)
        node = await judged(kube, manifest)
        if node:
            assert fits(node), f"{manifest} was bound to {node}"
            ours.bound.append(replace(pod, node=node))
        else:
            assert not fits(""), f"{manifest} was not bound"
            await kube.delete(PODS, pod.name, namespace=pod.namespace, grace_seconds=0)
        outcome["bound" if node else "fits nowhere"] += 1
    log.info("of %d pods %s", _PODS, dict(outcome))
    assert min(outcome["bound"], outcome["fits nowhere"]) > 50, outcome
