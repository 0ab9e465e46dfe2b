"""The cluster of the session: five nodes with eight GPUs each, sixty pods, one for each cause.

API server, scheduler, controllers and the planner are real. The node agents are simulated, and
answer for their metrics as pods of theirs would. Every step waits for what it leads to.
"""

import asyncio
import contextlib
import io
import json
import shlex
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final
from unittest.mock import patch

from aiohttp import web
from prometheus_client import generate_latest

from cli.main import main
from hack.cluster.controlplane import ControlPlane
from mpslice.gpus import MIB
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType
from mpslice.kube.events import EventRecorder
from mpslice.kube.session import Session
from mpslice.nodelayout import LayoutStatus, NodeLayout, SliceState, parse_node_layout
from nodeagent.gpus.memory import PodMemory
from nodeagent.metrics import Metrics as AgentMetrics
from planner.controller import Controller
from planner.metrics import Metrics
from planner.model import Cause
from planner.progress.note import PROGRESS, time_text
from planner.state.parse import parse_node
from tests.chart import render
from tests.cli.session.page import Typed, normal
from tests.planner.agents import SimulatedAgents, gpu_of, node_manifest
from tests.planner.conftest import SETTINGS
from tests.planner.pods import slice_pod
from tests.waiting import eventually

TEAM: Final = "research"
RELEASE: Final = "mpslice-system"
GB: Final = 85  # an A100 of 80 GB
GPUS: Final = {f"n{number}": [GB] * 8 for number in range(1, 6)}
ZONES: Final = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": "c"}
SLOTS: Final = 4  # the planner's --max-slices-per-gpu here
_FOREVER: Final = 3600.0  # seconds

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
PINNED: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"
WEB: Final = {"app": "web"}


def on(node: str) -> Json:
    return {"nodeSelector": {PINNED: node}}


def waiting() -> dict[Cause, Json]:
    """A pod for each cause, in the order of the queue: the one that waits longest, then by name.

    In which they are to be made, too: the planner writes a place in the queue that is no longer
    right anew after a minute only.
    """
    soon = time_text(datetime.now(UTC) + timedelta(minutes=5))
    backoff = {"attempts": 5, "until": soon, "words": "refused on n3: the scheduler found no port"}
    long_ago = time_text(datetime.now(UTC) - timedelta(minutes=10))
    apart = {"labelSelector": {"matchLabels": WEB}, "topologyKey": PINNED}
    spread = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": WEB},
    }
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
        Cause.POD_AFFINITY: pod(
            "apart",
            10,
            affinity={
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
            },
            **on("n3"),
        ),
        Cause.PODS: pod("places", 10, **on("n5")),
        Cause.RESERVED: pod("young", 20, **on("n1")),
        Cause.TAINT: pod("taint", 10, **on("n2")),
        Cause.TOPOLOGY_SPREAD: pod(
            "spread", 10, labels=WEB, affinity=zones, topologySpreadConstraints=[spread]
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


class Agents(SimulatedAgents):
    """With A100s, of which all but the first on n4 are in MIG mode."""

    def _status(self, layout: NodeLayout) -> LayoutStatus:
        status = super()._status(layout)
        gpus = (replace(gpu, product="NVIDIA A100", memory_mib=81_920) for gpu in status.gpus)
        mig = (
            replace(gpu, healthy=False, reason="MigMode")
            if layout.name == "n4" and gpu.index
            else gpu
            for gpu in gpus
        )
        return replace(status, gpus=tuple(mig))


class World:
    """The cluster as the session goes on. `do` takes a step of the page, `answer` a command."""

    def __init__(
        self, plane: ControlPlane, kube: Session, work: contextlib.AsyncExitStack, dice: Random
    ) -> None:
        self._plane = plane
        self._kube = kube
        self._work = work
        self._dice = dice
        self._running = contextlib.AsyncExitStack()

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, plane: ControlPlane, dice: Random) -> AsyncIterator["World"]:
        """Of a control plane on which nothing is yet; `dice` decide for the kubelets."""
        only = (f"--show-only=templates/{name}.yaml" for name in ("crd", "view-role"))
        for document in render(plane.parts.helm, *only):
            plane.kubectl("apply", "--filename=-", input=json.dumps(document))
        plane.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        for namespace in (TEAM, RELEASE):
            plane.kubectl("create", "namespace", namespace)
        planner = _planner(plane)
        plane.kubectl("apply", "--filename=-", input=json.dumps(planner))
        async with (
            await Session.connect("test", str(plane.kubeconfig)) as kube,
            contextlib.AsyncExitStack() as work,
        ):
            world = cls(plane, kube, work, dice)
            for name in GPUS:
                await world._add(name)
            await world._start({"n5": GPUS["n5"]})
            yield world
            await world._running.aclose()

    async def do(self, step: str) -> None:
        await getattr(self, f"_{step}")()

    async def answer(self, typed: Typed) -> str:
        """What the command prints, made the same. Only `kubectl` is known."""
        program, *arguments = shlex.split(typed.text)
        assert program == "kubectl"
        if arguments[0] != "mpslice":
            return normal(self._plane.kubectl(*arguments).stdout)
        flags = (*arguments[1:], f"--kubeconfig={self._plane.kubeconfig}")
        return normal(await asyncio.to_thread(_printed, flags))

    # The steps of the page.

    async def _first(self) -> None:
        await self._waits("first", Cause.NO_NODE)

    async def _second(self) -> None:
        """n5 has been handed over, and its kubelet does not report."""
        await self._has_layouts("n5")
        await self._waits("second", Cause.NOT_READY)

    async def _third(self) -> None:
        """The kubelet reports again, and the node is cordoned."""
        await self._patch("n5", {"spec": {"unschedulable": True}})
        await self._report("n5", ready=True)
        await self._waits("third", Cause.UNSCHEDULABLE)

    async def _served(self) -> None:
        held = partial(self._holds, "n5", 3)
        await eventually(held, "the three pods hold their slices")

    async def _busy(self) -> None:
        """The cluster in use. Planner and agents are started anew on it, as after an upgrade."""
        await self._has_layouts(*GPUS)
        await self._running.aclose()
        for node, gpus in HELD.items():
            slices = [
                {"uuid": gpu_of(node, n), "slices": {f"{s}gb": sizes.count(s) for s in sizes}}
                for n, sizes in enumerate(gpus)
            ]
            patch = {"spec": {"gpus": slices}}
            await self._kube.patch(NODE_LAYOUTS, node, patch, type=PatchType.MERGE)
        for each in holding():
            await self._make(each)
        taint = {"key": "dedicated", "value": "vision", "effect": "NoSchedule"}
        await self._patch("n2", {"spec": {"taints": [taint]}})
        await self._report("n5", ready=True, pods="3")
        await self._start(GPUS)
        for node, gpus in HELD.items():
            held = partial(self._holds, node, sum(map(len, gpus)))
            await eventually(held, f"the pods on {node} hold their slices")
        await self._planner_is_up_to_date()
        pods = waiting()
        for each in pods.values():
            await self._make(each)
        for cause, each in pods.items():
            await self._told(each["metadata"]["name"], cause)

    async def _measured(self) -> None:
        """The agents of all nodes answer for what their pods use."""
        for node in GPUS:
            await self._measure(node)

    # What the steps are made of.

    async def _start(self, gpus: dict[str, list[int]]) -> None:
        self._running = contextlib.AsyncExitStack()
        agents = Agents(self._kube, gpus, dice=self._dice)
        self._planner = await self._running.enter_async_context(_at_work(self._kube, agents))

    async def _add(self, node: str) -> None:
        labels = {
            PINNED: node,
            ZONE: ZONES[node],
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.count": "8",
            "nvidia.com/gpu.memory": "81920",
            "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
        }
        await self._kube.create(NODES, node_manifest(node, labels=labels))
        await self._report(node, ready=node != "n5")

    async def _report(self, node: str, *, ready: bool, pods: str = "110") -> None:
        """What a kubelet reports, and the taints that the control plane makes of it."""
        message = "" if ready else "container runtime is down"
        state = {"type": "Ready", "status": str(ready), "reason": "Kubelet", "message": message}
        amounts = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": pods}
        status = {"conditions": [state], "capacity": amounts, "allocatable": amounts}
        patch = {"status": status}
        await self._kube.patch(NODES, node, patch, type=PatchType.MERGE, subresource="status")
        await eventually(
            partial(self._is_tainted, node, tainted=not ready),
            f"the control plane has heard of {node}",
        )

    async def _is_tainted(self, node: str, *, tainted: bool) -> bool:
        spec = (await self._kube.read(NODES, node))["spec"]
        keys = [
            (taint["key"], taint["effect"])
            for taint in spec.get("taints") or ()
            if taint["key"].endswith(("/not-ready", "/unreachable"))
        ]
        return len(keys) == (2 if tainted else 0)

    async def _patch(self, node: str, patch: Json) -> None:
        await self._kube.patch(NODES, node, patch, type=PatchType.MERGE)

    async def _make(self, made: Json) -> None:
        await self._kube.create(PODS, made, namespace=TEAM)

    async def _waits(self, name: str, cause: Cause) -> None:
        await self._planner_is_up_to_date()
        await self._make(pod(name, 20))
        await self._told(name, cause)

    async def _planner_is_up_to_date(self) -> None:
        """What it tells first of a pod stays for a minute, and is to be right at once."""

        async def seen() -> bool:
            layouts = {each.name: each for each in await self._layouts()}
            page = await self._kube.list_page(NODES, query={})
            nodes = {node.name: node for node in map(parse_node, page["items"])}
            cluster = self._planner.cluster
            known = {node.name: node for node in cluster.nodes}
            return (known, cluster.layouts) == (nodes, layouts)

        await eventually(seen, "the planner sees nodes and layouts as they are")

    async def _told(self, name: str, cause: Cause) -> None:
        """Planner and scheduler have said why the pod waits."""

        async def told() -> bool:
            found = await self._kube.read(PODS, name, namespace=TEAM)
            conditions = {c["type"]: c for c in found["status"].get("conditions") or ()}
            if cause is Cause.GATED:
                return True  # the planner does not speak of it
            said = conditions.get("mpslice.io/SliceAvailable", {}).get("reason")
            gated = bool(found["spec"].get("schedulingGates"))
            seen = conditions.get("PodScheduled", {}).get("reason") == "Unschedulable"
            return said == cause and (gated or seen)

        await eventually(told, f"{name} is told {cause}")

    async def _has_layouts(self, *nodes: str) -> None:
        async def reported() -> bool:
            found = {each.name: each for each in await self._layouts()}
            return all(node in found for node in nodes) and (
                "n5" not in nodes or found["n5"].status is not None
            )

        await eventually(reported, "the layouts are there")

    async def _layouts(self) -> list[NodeLayout]:
        page = await self._kube.list_page(NODE_LAYOUTS, query={})
        return [parse_node_layout(each) for each in page["items"]]

    async def _holds(self, node: str, slices: int) -> bool:
        return len(await self._holders(node)) == slices

    async def _holders(self, node: str) -> list[tuple[int, str, int]]:
        """The used slices by GPU and pod: the GPU's index, the pod and the size in gb."""
        return sorted(
            (gpu.index, each.pod, each.id.size)
            for layout in await self._layouts()
            if layout.name == node and layout.status is not None
            for gpu in layout.status.gpus
            for each in gpu.slices
            if each.state is SliceState.USED and each.pod
        )

    async def _measure(self, node: str) -> None:
        """A server with the agent's own metrics, and a pod that the API server finds it by."""
        metrics = AgentMetrics(node)
        samples = [
            PodMemory(gpu, name, name, *_used(number, size * 10**9 // MIB))
            for number, (gpu, name, size) in enumerate(await self._holders(node))
        ]
        metrics.watch_memory(lambda: samples)

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(body=generate_latest(metrics.registry))

        application = web.Application()
        application.router.add_get("/metrics", answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._work.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._plane.address, 0).start()
        port = {"name": "ops", "containerPort": runner.addresses[0][1]}
        labels = {
            "app.kubernetes.io/name": "mpslice",
            "app.kubernetes.io/component": "nodeagent",
        }
        agent: Json = {
            "metadata": {"name": f"mpslice-nodeagent-{node}", "labels": labels},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "nodeagent", "image": "none", "ports": [port]}],
                "automountServiceAccountToken": False,
            },
        }
        address = self._plane.address
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        await self._kube.create(PODS, agent, namespace=RELEASE)
        await self._kube.patch(
            PODS,
            agent["metadata"]["name"],
            {"status": status},
            type=PatchType.MERGE,
            namespace=RELEASE,
            subresource="status",
        )


def _used(number: int, limit: int) -> tuple[int, int, int]:
    """What a pod uses now, its limit, and its peak: from a tenth to nine tenths of the limit."""
    now = limit * (1 + number * 3 % 9) // 10
    return now, limit, min(limit, now + limit // 20)


def _planner(plane: ControlPlane) -> Json:
    """The planner's Deployment as the chart makes it, without pods: it runs in this process."""
    limit = f"--set=mps.maxSlicesPerGPU={SLOTS}"
    only = "--show-only=templates/planner-deployment.yaml"
    (found,) = (
        each for each in render(plane.parts.helm, only, limit) if each["kind"] == "Deployment"
    )
    found["spec"]["replicas"] = 0
    return found


@contextlib.asynccontextmanager
async def _at_work(kube: Session, agents: Agents) -> AsyncIterator[Controller]:
    """Agents and a leading planner, which it yields."""
    recorder = EventRecorder(kube, "mpslice-planner")
    settings = replace(SETTINGS, max_slices_per_gpu=SLOTS)
    controller = Controller(kube, settings, recorder, Metrics())
    async with asyncio.TaskGroup() as tasks:
        work = (agents.run(), controller.follow(), controller.lead(), recorder.run())
        running = [tasks.create_task(each) for each in work]
        yield controller
        for task in running:
            task.cancel()


def _printed(arguments: Iterable[str]) -> str:
    """What the program prints into a pipe, errors included; not that it takes long."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with (
        patch("cli.progress.PATIENCE", _FOREVER),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        contextlib.suppress(SystemExit),
    ):
        main(list(arguments))
    raw = out.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode()
