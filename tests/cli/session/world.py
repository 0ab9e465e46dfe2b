"""The cluster of the session as it goes on: one method for each step of the page.

API server, scheduler, controllers and the planner are real, the node agents are simulated. Every
step waits for what it leads to.
"""

import asyncio
import contextlib
import io
import json
import shlex
from collections.abc import AsyncIterator, Iterable
from functools import partial
from random import Random
from typing import Final
from unittest.mock import patch

from cli.main import main
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType
from mpslice.kube.session import Session
from mpslice.nodelayout import NodeLayout, SliceState, parse_node_layout
from planner.model.plan import Cause
from planner.state.parse import parse_node
from tests.chart import render
from tests.cli.objects import HOSTNAME, ZONE
from tests.cli.session.page import Typed, normal
from tests.cli.session.pods import (
    GPUS,
    HELD,
    RELEASE,
    TEAM,
    ZONES,
    holding,
    pod,
    waiting,
)
from tests.cli.session.programs import (
    Agents,
    Holder,
    agent_with_metrics,
    at_work,
    planner_deployment,
)
from tests.planner.agents import gpu_of, node_manifest
from tests.waiting import eventually

_FOREVER: Final = 3600.0  # seconds


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
        planner = planner_deployment(plane)
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
        self._planner = await self._running.enter_async_context(at_work(self._kube, agents))

    async def _add(self, node: str) -> None:
        labels = {
            HOSTNAME: node,
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

    async def _holders(self, node: str) -> list[Holder]:
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
        holders = await self._holders(node)
        agent = agent_with_metrics(self._kube, self._plane.address, node, holders)
        await self._work.enter_async_context(agent)


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
