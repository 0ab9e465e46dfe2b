"""A kubelet as a device plugin sees it: real gRPC on real sockets, and the real one's bad habits.

What it does is kubelet/cm/devicemanager of 1.36: dial back in Register, disconnect whichever client
is current when any stream ends, trust the list that it has when an Allocate returns.
"""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as plugin_api
from nodeagent.kubelet_api import podresources_v1_pb2 as resources_api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import (
    DevicePluginStub,
    RegistrationServicer,
    add_RegistrationServicer_to_server,
)
from nodeagent.kubelet_api.podresources_v1_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)
from tests.waiting import DEADLINE

STOP_GRACE: Final = 300.0
"""Seconds for which the devices of a plugin that has ended count (endpointStopGracePeriod)."""

OPTIONS = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))


@dataclass
class Admitted:
    """A container to which the kubelet has given devices."""

    pod: str
    uid: str
    container: str
    resource: str
    ids: list[str]
    init: bool = False
    response: bytes = b""


@dataclass
class Client:
    """The kubelet's side of one registered endpoint."""

    resource: str
    channel: grpc.aio.Channel
    options: plugin_api.DevicePluginOptions
    stream: "asyncio.Task[None] | None" = None

    @property
    def api(self) -> Any:
        return DevicePluginStub(self.channel)


@dataclass
class FakeKubelet:
    """`devices` is what it knows, by resource, then id, with its health."""

    directory: Path
    pod_resources_socket: Path
    devices: dict[str, dict[str, bool]] = field(default_factory=dict)
    admitted: list[Admitted] = field(default_factory=list)
    registrations: list[str] = field(default_factory=list)
    lists: list[tuple[str, dict[str, bool]]] = field(default_factory=list)
    numa_nodes: dict[str, list[int]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    panics: list[str] = field(default_factory=list)
    overlaps: int = 0
    write_checkpoints: bool = True
    refusals: int = 0  # PodResources calls that its rate limit is to refuse
    on_list: Callable[[str], None] = lambda _resource: None
    on_call: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    _clients: dict[str, Client] = field(default_factory=dict)
    _stopped: dict[str, float] = field(default_factory=dict)  # since when, by resource
    _server: grpc.aio.Server | None = None
    _resources: grpc.aio.Server | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "kubelet.sock"

    async def start(self) -> None:
        """As the real one: delete all sockets, then listen."""
        for path in self.directory.glob("*.sock"):
            path.unlink()
        self._server = await _serve(
            self.socket, add_RegistrationServicer_to_server, _Register(self)
        )
        add = add_PodResourcesListerServicer_to_server
        self._resources = await _serve(self.pod_resources_socket, add, _Lister(self))

    async def stop(self) -> None:
        for client in list(self._clients.values()):
            await client.channel.close()
            if client.stream is not None:
                client.stream.cancel()
        self._clients.clear()
        for server in (self._server, self._resources):
            if server is not None:
                await server.stop(None)
        self._server = self._resources = None

    async def restart(self) -> None:
        """A new kubelet knows allocations, from its checkpoint, and no devices."""
        await self.stop()
        self.devices.clear()
        await self.start()

    @property
    def running(self) -> bool:
        return self._server is not None

    def healthy(self, resource: str) -> set[str]:
        return {key for key, healthy in self.devices.get(resource, {}).items() if healthy}

    def served(self) -> set[str]:
        """The resources whose plugin it is connected with."""
        return set(self._clients)

    def count(self) -> tuple[Counter[str], Counter[str]]:
        """What the node's status gets of each resource: capacity, allocatable (GetCapacity).

        Devices whose plugin has ended are unhealthy, and count for a while. Then the kubelet
        forgets them; of a name that it has known the status keeps a 0 (nodestatus/setters.go).
        """
        now = self.clock()
        for resource in [r for r, since in self._stopped.items() if now - since > STOP_GRACE]:
            self.devices[resource] = {}
        capacity = Counter({resource: len(ids) for resource, ids in self.devices.items()})
        healthy = {resource: len(self.healthy(resource)) for resource in self.devices}
        return capacity, Counter(healthy)

    async def disconnect(self, resource: str) -> None:
        """Cuts one plugin off, as it happens when registrations overlap."""
        await self._clients[resource].channel.close()

    async def admit(
        self,
        pod: str,
        resource: str,
        *,
        uid: str = "",
        container: str = "main",
        init: bool = False,
        between: Callable[[], Any] | None = None,
        choice: str = "",
    ) -> Any:
        """Gives a device to a container, or raises what fails the pod; the Allocate response.

        `between` runs between the choice of the device and its Allocate; `choice` is one that was
        made before.
        """
        client = self._clients[resource]
        ids = [choice] if choice else await self._choose(client)
        if between is not None:
            await between()
        response = await self._allocate(client, ids)
        if any(key not in self.devices[resource] for key in ids):
            self.panics.append(f"invalid memory address: {ids} left the list inside their Allocate")
        answer = response.SerializeToString()
        entry = Admitted(pod, uid or f"uid-{pod}", container, resource, ids, init, answer)
        self.admitted.append(entry)
        self.checkpoint()
        if client.options.pre_start_required:
            await self.start_container(resource, *ids)
        return response

    async def start_container(self, resource: str, *ids: str) -> None:
        """What comes before every start of a container, the first and any after it."""
        request = plugin_api.PreStartContainerRequest(devices_ids=ids)
        await asked(self._clients[resource].api.PreStartContainer(request, timeout=DEADLINE))

    async def _choose(self, client: Client) -> list[str]:
        taken = {key for entry in self.admitted for key in entry.ids}
        available = sorted(self.healthy(client.resource) - taken)
        if not available:
            raise AdmissionError(f"no healthy devices present: {client.resource}")
        preferred = await asked(
            client.api.GetPreferredAllocation(_preference(available), timeout=DEADLINE)
        )
        return list(preferred.container_responses[0].deviceIDs)

    async def _allocate(self, client: Client, ids: list[str]) -> Any:
        self.calls.append(f"Allocate {ids}")
        wanted = plugin_api.ContainerAllocateRequest(devices_ids=ids)
        request = plugin_api.AllocateRequest(container_requests=[wanted])
        try:
            response = await asked(client.api.Allocate(request, timeout=DEADLINE))
        except grpc.aio.AioRpcError as error:
            raise AdmissionError(error.details()) from error
        return response.container_responses[0]

    async def allocate_again(self, resource: str, id: str) -> Any:
        """An Allocate of a given id, past every check of the kubelet's."""
        return await self._allocate(self._clients[resource], [id])

    def forget(self, pod: str) -> None:
        """The pod has ended."""
        self.admitted = [entry for entry in self.admitted if entry.pod != pod]

    def checkpoint(self) -> None:
        if not self.write_checkpoints:
            return
        entries = [
            {
                "PodUID": entry.uid,
                "ContainerName": entry.container,
                "ResourceName": entry.resource,
                "DeviceIDs": {"-1": entry.ids},
                "AllocResp": base64.b64encode(entry.response).decode(),
            }
            for entry in self.admitted
        ]
        registered = {resource: sorted(self.healthy(resource)) for resource in self.devices}
        data = {"PodDeviceEntries": entries, "RegisteredDevices": registered}
        temporary = self.directory / ".checkpoint"
        temporary.write_text(json.dumps({"Data": data, "Checksum": 1}))
        temporary.rename(self.directory / "kubelet_internal_checkpoint")

    async def register(self, request: plugin_api.RegisterRequest) -> None:
        self.on_call()
        path = self.directory / request.endpoint
        channel = grpc.aio.insecure_channel(f"unix:{path}", OPTIONS)
        await asyncio.wait_for(channel.channel_ready(), DEADLINE)
        api: Any = DevicePluginStub(channel)
        options = await api.GetDevicePluginOptions(plugin_api.Empty(), timeout=DEADLINE)
        resource = request.resource_name
        before = self._clients.get(resource)
        if before is not None and before.stream is not None and not before.stream.done():
            self.overlaps += 1
        client = self._clients[resource] = Client(resource, channel, options)
        self._stopped.pop(resource, None)
        self.registrations.append(resource)
        client.stream = asyncio.create_task(self._follow(client))

    async def _follow(self, client: Client) -> None:
        try:
            async for response in client.api.ListAndWatch(plugin_api.Empty()):
                self._receive(client.resource, response)
        except grpc.aio.AioRpcError:
            pass
        # handler.go, runClient: it is the *current* client that is disconnected.
        current = self._clients.pop(client.resource, None)
        if current is not None:
            devices = self.devices.get(client.resource, {})
            self.devices[client.resource] = dict.fromkeys(devices, False)
            self._stopped[client.resource] = self.clock()
            await current.channel.close()

    def _receive(self, resource: str, response: plugin_api.ListAndWatchResponse) -> None:
        listed = {device.ID: device.health == "Healthy" for device in response.devices}
        self.devices[resource] = listed
        for device in response.devices:
            self.numa_nodes[device.ID] = [node.ID for node in device.topology.nodes]
        self.on_call()
        self.lists.append((resource, listed))
        self.checkpoint()
        self.on_list(resource)


async def asked(call: Awaitable[Any]) -> Any:
    """The answer to a call; raises AdmissionError where its channel has been closed.

    gRPC cancels such a call here, and whoever waits for it; to a kubelet it is an error as others.
    """
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AdmissionError("the client connection is closing") from None
    except grpc.aio.UsageError as error:
        raise AdmissionError(str(error)) from error


class AdmissionError(Exception):
    """UnexpectedAdmissionError: the pod is Failed for good."""


def _preference(available: list[str]) -> plugin_api.PreferredAllocationRequest:
    wanted = plugin_api.ContainerPreferredAllocationRequest(
        available_deviceIDs=available, allocation_size=1
    )
    return plugin_api.PreferredAllocationRequest(container_requests=[wanted])


async def _serve(path: Path, add: Callable[[Any, Any], None], servicer: Any) -> grpc.aio.Server:
    server = grpc.aio.server()
    add(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


class _Register(RegistrationServicer):
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    async def Register(self, request: Any, context: Any) -> plugin_api.Empty:  # noqa: N802
        await self._kubelet.register(request)
        return plugin_api.Empty()


class _Lister(PodResourcesListerServicer):
    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet

    async def _limit(self, context: Any) -> None:
        self._kubelet.on_call()
        if self._kubelet.refusals > 0:
            self._kubelet.refusals -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._limit(context)
        pods = [
            resources_api.PodResources(
                namespace=entry.pod.partition("/")[0],
                name=entry.pod.partition("/")[2],
                containers=[
                    resources_api.ContainerResources(
                        name=entry.container,
                        devices=[
                            resources_api.ContainerDevices(
                                resource_name=entry.resource, device_ids=entry.ids
                            )
                        ],
                    )
                ],
            )
            for entry in self._kubelet.admitted
            if not entry.init
        ]
        return resources_api.ListPodResourcesResponse(pod_resources=pods)

    async def GetAllocatableResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._limit(context)
        return resources_api.AllocatableResourcesResponse(
            devices=[
                resources_api.ContainerDevices(
                    resource_name=resource, device_ids=sorted(self._kubelet.healthy(resource))
                )
                for resource in self._kubelet.devices
            ]
        )

    async def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        listed = await self.List(request, context)
        wanted = (request.pod_namespace, request.pod_name)
        found = [pod for pod in listed.pod_resources if (pod.namespace, pod.name) == wanted]
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such pod")
        return resources_api.GetPodResourcesResponse(pod_resources=found[0])


@asynccontextmanager
async def fake_kubelet(directory: Path) -> AsyncIterator[FakeKubelet]:
    """A running kubelet in a folder of its own; its path must be short."""
    (directory / "dp").mkdir()
    kubelet = FakeKubelet(directory / "dp", directory / "podres.sock")
    await kubelet.start()
    try:
        yield kubelet
    finally:
        await kubelet.stop()
