"""The floor under the agent: a device plugin that does nothing but advertise, as fast as it can be.

What a size that is new, or one more slice of one that is there, costs on the kubelet whoever does
it: serve, register, wait until the kubelet shows the id, and write the node's status.
"""

# ruff: noqa: ARG002, N802  signatures and names are gRPC's

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc

from hack.cluster.node import Node
from mpslice.kube.api import NODES, PatchType
from mpslice.kube.session import Session
from nodeagent.kubelet.podresources import CHANNEL_OPTIONS
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as plugin_api
from nodeagent.kubelet_api import podresources_v1_pb2 as resources_api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import (
    DevicePluginServicer,
    RegistrationStub,
    add_DevicePluginServicer_to_server,
)
from nodeagent.kubelet_api.podresources_v1_pb2_grpc import PodResourcesListerStub

DOMAIN: Final = "floor.mpslice.io/"
_PAUSE: Final = 0.001


class Floor(AsyncExitStack):
    """Advertises devices on the node; each call returns once they are bindable."""

    def __init__(self, node: Node, kube: Session) -> None:
        super().__init__()
        self._node = node
        self._kube = kube
        self._plugins: dict[str, _Plugin] = {}
        self._resources: Any = PodResourcesListerStub(self._channel(node.pod_resources_socket))
        kubelet = node.device_plugin_dir / "kubelet.sock"
        self._registration: Any = RegistrationStub(self._channel(kubelet))

    def _channel(self, socket: Path) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(f"unix:{socket}", CHANNEL_OPTIONS)
        self.push_async_callback(channel.close, None)
        return channel

    async def new_resource(self, name: str, count: int = 1) -> None:
        """A resource with so many devices, in a plugin of its own."""
        plugin = self._plugins[name] = _Plugin(DOMAIN + name, count)
        socket = self._node.device_plugin_dir / f"floor-{name}.sock"
        server = grpc.aio.server()
        add_DevicePluginServicer_to_server(plugin, server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        self.push_async_callback(server.stop, None)
        request = plugin_api.RegisterRequest(
            version="v1beta1", endpoint=socket.name, resource_name=plugin.resource
        )
        await self._registration.Register(request)
        await self._bindable(plugin)

    async def one_more(self, name: str) -> None:
        """One more device of a resource that is there."""
        plugin = self._plugins[name]
        plugin.count += 1
        plugin.changed.set()
        await self._bindable(plugin)

    async def _bindable(self, plugin: "_Plugin") -> None:
        request = resources_api.AllocatableResourcesRequest()
        while True:
            shown = await self._resources.GetAllocatableResources(request)
            ids = {
                id_
                for entry in shown.devices
                if entry.resource_name == plugin.resource
                for id_ in entry.device_ids
            }
            if len(ids) == plugin.count:
                break
            await asyncio.sleep(_PAUSE)
        amounts = {plugin.resource: str(plugin.count)}
        patch = {"status": {"capacity": amounts, "allocatable": amounts}}
        await self._kube.patch(
            NODES, self._node.name, patch, type=PatchType.MERGE, subresource="status"
        )


class _Plugin(DevicePluginServicer):
    """One resource; nobody asks for it, so it never has to allocate."""

    def __init__(self, resource: str, count: int) -> None:
        self.resource = resource
        self.count = count
        self.changed = asyncio.Event()

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> Any:
        return plugin_api.DevicePluginOptions()

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            self.changed.clear()
            devices = [
                plugin_api.Device(ID=f"{self.resource}-{number}", health="Healthy")
                for number in range(self.count)
            ]
            yield plugin_api.ListAndWatchResponse(devices=devices)
            await self.changed.wait()

    async def GetPreferredAllocation(self, request: Any, context: Any) -> Any:
        return plugin_api.PreferredAllocationResponse()

    async def Allocate(self, request: Any, context: Any) -> Any:
        return plugin_api.AllocateResponse()

    async def PreStartContainer(self, request: Any, context: Any) -> Any:
        return plugin_api.PreStartContainerResponse()
