"""What a test does to the node and sees of it: layouts, pods, and the kubelet's own word."""

import asyncio
import json
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from hack.cluster.controlplane import ControlPlane
from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.node import Node
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, PatchType, list_all
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session
from nodeagent.kubelet.podresources import CHANNEL_OPTIONS
from nodeagent.kubelet_api import podresources_v1_pb2 as api
from nodeagent.kubelet_api.podresources_v1_pb2_grpc import PodResourcesListerStub
from tests.nodeagent.conftest import gpu, resource
from tests.nodeagent.real.agent_process import AgentProcess, pids_in_slice
from tests.waiting import DEADLINE, eventually

NAMESPACE = "default"
STARTED = "started"
STAY = f"env | sort; trap 'exit 0' TERM; sleep 3600 & echo {STARTED}; wait"
DEAF = f"trap '' TERM; sleep 3600 & echo {STARTED}; wait"
"""Lives on for the 2 seconds that the kubelet gives even a pod that is force-deleted."""
SLICE = "nvidia.com/gpu-"

Slices = dict[str, int]


@dataclass(frozen=True)
class KubeletView:
    """What the kubelet says: the healthy ids, who has which, and its checkpoint of both."""

    healthy: frozenset[str]
    listed: dict[str, str]  # slice → pod, as List tells
    registered: frozenset[str]
    allocated: dict[str, str]  # slice → uid of the pod, as the checkpoint tells


@dataclass
class Cluster:
    """The API server, the kubelet and the agent, as one test has them."""

    plane: ControlPlane
    node: Node
    kube: Session
    agent: AgentProcess
    folder: Path
    _names: list[str] = field(default_factory=list)

    # The layout.

    async def layout(self) -> Json:
        try:
            return await self.kube.read(NODE_LAYOUTS, self.node.name)
        except NotFound:
            return {}

    async def lay_out(self, *slices: Slices, release: bool = False) -> int:
        """Writes the layout, one entry a GPU from the first; its generation."""
        gpus = [{"uuid": gpu(n + 1), "slices": entry} for n, entry in enumerate(slices)]
        spec = {"release": release, "gpus": gpus}
        try:
            written = await self.kube.patch(
                NODE_LAYOUTS,
                self.node.name,
                [{"op": "replace", "path": "/spec", "value": spec}],
                type=PatchType.JSON,
            )
        except NotFound:
            body = {
                "apiVersion": "mpslice.io/v1alpha1",
                "kind": "NodeLayout",
                "metadata": {"name": self.node.name},
                "spec": spec,
            }
            written = await self.kube.create(NODE_LAYOUTS, body)
        return int(written["metadata"]["generation"])

    async def acknowledged(self, generation: int, seconds: float = DEADLINE) -> Json:
        """Waits until the agent has acted on the generation; the layout's status."""

        async def probe() -> Json | None:
            status = dict((await self.layout()).get("status") or {})
            return status if status.get("observedGeneration", 0) >= generation else None

        found = await eventually(probe, f"generation {generation}", seconds=seconds, every=0.01)
        assert found is not None
        return found

    async def apply(self, *slices: Slices, release: bool = False) -> Json:
        """Writes a layout and waits for its acknowledgement; the layout's status."""
        return await self.acknowledged(await self.lay_out(*slices, release=release))

    async def status(self) -> Json:
        return dict((await self.layout()).get("status") or {})

    async def condition(self, type_: str) -> Json:
        conditions = (await self.status()).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    async def slices(self) -> dict[str, str]:
        """The pod of each slice in the layout's status, "" for a free one."""
        return slices_of(await self.status())

    async def allocatable(self) -> dict[str, int]:
        """The slices in the node's status, without the sizes that are 0."""
        status = (await self.kube.read(NODES, self.node.name))["status"]
        counts = {k: int(v) for k, v in status["allocatable"].items() if k.startswith(SLICE)}
        return {name: count for name, count in counts.items() if count}

    async def offers(self, wanted: dict[str, int]) -> None:
        """Waits until the node's status shows these slices and no others.

        The agent writes it before the NodeLayout's or beside it (nodeagent/cluster/publisher.py).
        """

        async def probe() -> bool:
            return await self.allocatable() == wanted

        await eventually(probe, f"the node offers {wanted}", every=0.01)

    # The kubelet.

    async def kubelet_view(self) -> KubeletView:
        target = f"unix:{self.node.pod_resources_socket}"
        async with grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) as channel:
            stub: Any = PodResourcesListerStub(channel)
            known = await _asked(stub.GetAllocatableResources, api.AllocatableResourcesRequest())
            pods = await _asked(stub.List, api.ListPodResourcesRequest())
        listed = {
            id_: pod.name
            for pod in pods.pod_resources
            for container in pod.containers
            for id_ in _ids(container.devices)
        }
        data = json.loads((self.node.device_plugin_dir / "kubelet_internal_checkpoint").read_text())
        registered = data["Data"]["RegisteredDevices"] or {}
        return KubeletView(
            healthy=frozenset(_ids(known.devices)),
            listed=listed,
            registered=frozenset(
                id_ for name, ids in registered.items() if name.startswith(SLICE) for id_ in ids
            ),
            allocated={
                id_: entry["PodUID"]
                for entry in data["Data"]["PodDeviceEntries"] or ()
                if entry["ResourceName"].startswith(SLICE)
                for ids in entry["DeviceIDs"].values()
                for id_ in ids
            },
        )

    # Pods.

    async def create(self, name: str, size: int, **more: Any) -> Json:
        """A pod whose container sleeps in a slice; see `pod_manifest`."""
        return await self.kube.create(PODS, pod_manifest(name, size, **more), namespace=NAMESPACE)

    async def create_plain(self, name: str, container: Json, **spec: Any) -> Json:
        """A pod of no slice with just this container, and more of `spec`."""
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "hostNetwork": True,
                "containers": [container],
                **spec,
            },
        }
        return await self.kube.create(PODS, body, namespace=NAMESPACE)

    async def run(self, name: str, size: int, **more: Any) -> Json:
        """The same, and waits until it is Ready; the pod."""
        await self.create(name, size, **more)
        return await self.ready(name)

    async def pod(self, name: str) -> Json:
        return await self.kube.read(PODS, name, namespace=NAMESPACE)

    async def pods(self) -> list[Json]:
        return await list_all(self.kube, PODS, namespace=NAMESPACE)

    async def ready(self, name: str) -> Json:
        async def probe() -> Json | None:
            pod = await self.pod(name)
            conditions = pod["status"].get("conditions") or []
            return pod if {"Ready": "True"}.items() <= _statuses(conditions).items() else None

        found = await eventually(probe, f"pod {name} is ready", every=0.05)
        assert found is not None
        return found

    async def verdict(self, name: str, seconds: float = DEADLINE) -> str:
        """The pod's phase, once the kubelet has let it run or refused it."""

        async def probe() -> str:
            phase = str((await self.pod(name))["status"]["phase"])
            return phase if phase in ("Running", "Failed") else ""

        return await eventually(probe, f"{name} runs or is refused", seconds=seconds)

    async def unschedulable(self, name: str) -> None:
        """Waits until the scheduler has found no place for the pod."""

        async def probe() -> bool:
            conditions = (await self.pod(name))["status"].get("conditions") or []
            return any(c.get("reason") == "Unschedulable" for c in conditions)

        await eventually(probe, f"the scheduler finds no slice for {name}")

    async def failures(self) -> list[str]:
        """The pods that failed, each with its reason and message."""
        return [
            f"{pod['metadata']['name']}, created {pod['metadata']['creationTimestamp']}: "
            f"{pod['status'].get('reason')}: {pod['status'].get('message')}"
            for pod in await self.pods()
            if pod["status"]["phase"] == "Failed"
        ]

    async def admitted(self, names: Iterable[str]) -> None:
        """Waits until the kubelet has decided about each of the pods."""

        async def probe() -> bool:
            pods = {pod["metadata"]["name"]: pod for pod in await self.pods()}
            return all(
                pods[name]["status"].get("startTime")
                or pods[name]["status"]["phase"] in ("Failed", "Succeeded")
                for name in names
            )

        await eventually(probe, "pods are admitted or refused")

    async def delete(self, *names: str, grace: int | None = None) -> None:
        """Deletes pods, and waits until the API server has forgotten them."""
        for name in names:
            await self.kube.delete(PODS, name, namespace=NAMESPACE, grace_seconds=grace)

        async def gone() -> bool:
            left = {pod["metadata"]["name"] for pod in await self.pods()}
            return not left.intersection(names)

        await eventually(gone, f"pods {', '.join(names)} are gone")

    async def holder_is(self, pod: str) -> str:
        """Waits until the layout names the pod; the id of its slice."""

        async def probe() -> str:
            held = [id_ for id_, by in (await self.slices()).items() if by == f"{NAMESPACE}/{pod}"]
            return held[0] if held else ""

        return await eventually(probe, f"the slice of {pod} is known")

    async def printed(self, name: str) -> list[str]:
        """Waits until the container in the slice has begun to sleep; what it has printed."""
        command = ("logs", name, "--container=slice")

        async def probe() -> list[str]:
            done = await asyncio.to_thread(self.plane.kubectl, *command, check=False)
            lines = done.stdout.splitlines()
            return lines if STARTED in lines else []

        return await eventually(probe, f"{name} sleeps", every=0.05)

    async def processes(self, name: str) -> set[int]:
        """The processes in the pod's slice, none of which ends or starts another by itself."""
        await self.printed(name)
        return pids_in_slice((await self.pod(name))["metadata"]["uid"])

    async def restarted(self, name: str) -> Json:
        """Waits until the container in the slice runs for the second time; the pod."""

        async def probe() -> Json | None:
            pod = await self.ready(name)
            return pod if container_of(pod)["restartCount"] == 1 else None

        found = await eventually(probe, f"{name} has started again", every=0.05)
        assert found is not None
        return found

    async def kill_container(self, name: str) -> None:
        """kill -9 of whatever runs in the pod's slice."""
        for pid in pids_in_slice((await self.pod(name))["metadata"]["uid"]):
            _kill(pid)

    async def events(self, name: str) -> list[Json]:
        """The Events about an object of that name."""
        events = self.plane.api.get("/api/v1/events")["items"]
        return [event for event in events if event["involvedObject"]["name"] == name]


def pod_manifest(
    name: str,
    size: int,
    *,
    command: str = STAY,
    kind: str = "containers",
    bind: str = "",
    stuck: bool = False,
    others: Sequence[Json] = (),
    env_from: str = "",
    **spec: Any,
) -> Json:
    """A pod with one slice.

    `kind` says where its container stands; `bind` binds it past the scheduler; `stuck` has it
    admitted and never started, for want of a volume, which costs the machine next to nothing;
    `others` are containers beside it; `env_from` is a ConfigMap that is its environment.
    """
    container = {
        "name": "slice",
        "image": BUSYBOX_IMAGE,
        "command": ["sh", "-c", command],
        "resources": {"limits": {resource(size): "1"}},
        **({"envFrom": [{"configMapRef": {"name": env_from}}]} if env_from else {}),
        # A volume that no container mounts is not waited for.
        **({"volumeMounts": [{"name": "missing", "mountPath": "/missing"}]} if stuck else {}),
    }
    missing = {"name": "missing", "hostPath": {"path": "/nowhere/at/all", "type": "Directory"}}
    body: Json = {
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "hostNetwork": True,
        "enableServiceLinks": False,
        "containers": [*others],
        **({"nodeName": bind} if bind else {}),
        **({"volumes": [missing]} if stuck else {}),
        **spec,
    }
    body[kind] = [container, *body.get(kind, ())]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def plain_container(name: str = "idle", command: str = STAY) -> Json:
    """A container without a slice."""
    return {"name": name, "image": BUSYBOX_IMAGE, "command": ["sh", "-c", command]}


def slices_of(status: Json) -> dict[str, str]:
    """The pod of each slice in a NodeLayout's status, "" for a free one."""
    return {
        entry["id"]: entry.get("pod", "") or ("?" if entry["state"] == "Used" else "")
        for found in status.get("gpus") or ()
        for entry in found.get("slices") or ()
    }


def container_of(pod: Json, name: str = "slice") -> Json:
    """The status of a container: the same containerID is the same process."""
    statuses = pod["status"].get("containerStatuses") or []
    return dict(next(entry for entry in statuses if entry["name"] == name))


async def _asked(method: Any, request: Any) -> Any:
    """The kubelet's answer; agent and tests together ask more often than it answers."""
    while True:
        try:
            return await method(request, timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            await asyncio.sleep(0.01)


def _ids(devices: Iterable[Any]) -> list[str]:
    return [
        id_
        for entry in devices
        if entry.resource_name.startswith(SLICE)
        for id_ in entry.device_ids
    ]


def _statuses(conditions: Iterable[Json]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in conditions}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
