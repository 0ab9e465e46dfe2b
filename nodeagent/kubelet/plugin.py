"""The device plugin of one size on one socket: gRPC in front of `SliceService`.

An endpoint is made for one kubelet and thrown away with it: a kubelet that starts deletes the
sockets of all plugins, and a server does not notice that it has lost its own.
"""

# ruff: noqa: ARG002, N802  signatures and names are gRPC's

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from mpslice.errors import MpsliceError
from mpslice.slices import SliceSize, resource_name
from nodeagent.edits import ContainerEdits
from nodeagent.errors import UnknownSlice
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import (
    DevicePluginServicer,
    add_DevicePluginServicer_to_server,
)
from nodeagent.pulse import Pulse
from nodeagent.slices.table import Listed

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

OPTIONS: Final = api.DevicePluginOptions(
    pre_start_required=True, get_preferred_allocation_available=True
)

_START: Final = 5.0  # seconds
_GRACE: Final = 0.5  # seconds for calls in flight when an endpoint ends

log = logging.getLogger(__name__)


class Endpoint:
    """One gRPC server for one size. `streaming` and `ended` tell how ListAndWatch fares.

    `told` beats when the kubelet has been sent what there was to tell after `told_of` changes.
    gRPC unlinks the path when a server ends, so each endpoint needs a path of its own.
    """

    def __init__(self, size: SliceSize, socket: Path, service: SliceService) -> None:
        self.size = size
        self.socket = socket
        self.streaming = asyncio.Event()
        self.ended = asyncio.Event()
        self.told = Pulse()
        self.told_of = -1
        self._closing = asyncio.Event()
        self._service = service
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        add_DevicePluginServicer_to_server(_Servicer(self, service), self._server)

    async def start(self) -> None:
        """Serves; raises OSError when the socket cannot be made."""
        try:
            self._server.add_insecure_port(f"unix:{self.socket}")
        except RuntimeError as error:  # grpcio knows no better error
            raise OSError(f"cannot listen on {self.socket}: {error}") from error
        async with asyncio.timeout(_START):
            await self._server.start()

    async def stop(self) -> None:
        """Ends the streams, lets calls in flight finish, and takes the socket away."""
        self._closing.set()
        async with asyncio.timeout(_GRACE + _START):
            await self._server.stop(_GRACE)

    async def lists(self) -> AsyncGenerator[tuple[Listed, ...], None]:
        """Each list that differs from the one before, until the endpoint is stopped."""
        closing = asyncio.ensure_future(self._closing.wait())
        sent: tuple[Listed, ...] | None = None
        try:
            while not closing.done():
                seen = self._service.changed.count
                devices = self._service.devices(self.size)
                if devices != sent:
                    sent = devices
                    yield devices  # it goes on once gRPC has sent the list
                self.told_of = seen
                self.told.beat()
                change = asyncio.ensure_future(self._service.changed.after(seen))
                try:
                    await asyncio.wait((change, closing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
        finally:
            closing.cancel()


class _Servicer(DevicePluginServicer):
    """Translates between gRPC and the service; an AgentError becomes a status with its text."""

    def __init__(self, endpoint: Endpoint, service: SliceService) -> None:
        self._endpoint = endpoint
        self._service = service

    async def GetDevicePluginOptions(
        self, request: api.Empty, context: "Context"
    ) -> api.DevicePluginOptions:
        return OPTIONS

    async def ListAndWatch(
        self, request: api.Empty, context: "Context"
    ) -> AsyncIterator[api.ListAndWatchResponse]:
        self._endpoint.streaming.set()
        try:
            async for devices in self._endpoint.lists():
                yield _response(devices)
        finally:
            self._endpoint.ended.set()

    async def GetPreferredAllocation(
        self, request: api.PreferredAllocationRequest, context: "Context"
    ) -> api.PreferredAllocationResponse:
        return api.PreferredAllocationResponse(
            container_responses=[
                api.ContainerPreferredAllocationResponse(
                    deviceIDs=self._service.prefer(
                        list(wanted.available_deviceIDs),
                        list(wanted.must_include_deviceIDs),
                        wanted.allocation_size,
                    )
                )
                for wanted in request.container_requests
            ]
        )

    async def Allocate(
        self, request: api.AllocateRequest, context: "Context"
    ) -> api.AllocateResponse:
        try:
            # Nothing is awaited between the look at the table and the record in it.
            edits = [
                self._service.allocate(list(r.devices_ids)) for r in request.container_requests
            ]
        except MpsliceError as error:
            await self._refuse(context, error)
        return api.AllocateResponse(container_responses=[_edits(edit) for edit in edits])

    async def PreStartContainer(
        self, request: api.PreStartContainerRequest, context: "Context"
    ) -> api.PreStartContainerResponse:
        try:
            await self._service.prepare(list(request.devices_ids))
        except (MpsliceError, OSError) as error:
            await self._refuse(context, error)
        return api.PreStartContainerResponse()

    async def _refuse(self, context: "Context", error: Exception) -> NoReturn:
        resource = resource_name(self._endpoint.size)
        log.warning("refused a container", extra={"resource": resource, "error": str(error)})
        unknown = isinstance(error, UnknownSlice)
        code = grpc.StatusCode.NOT_FOUND if unknown else grpc.StatusCode.FAILED_PRECONDITION
        await context.abort(code, f"mpslice: {error}")


def _response(devices: tuple[Listed, ...]) -> api.ListAndWatchResponse:
    return api.ListAndWatchResponse(devices=map(_device, devices))


def _device(listed: Listed) -> api.Device:
    numa_nodes = () if listed.numa_node is None else (api.NUMANode(ID=listed.numa_node),)
    return api.Device(
        ID=str(listed.id),
        health="Healthy" if listed.healthy else "Unhealthy",
        topology=api.TopologyInfo(nodes=numa_nodes) if numa_nodes else None,
    )


def _edits(edits: ContainerEdits) -> api.ContainerAllocateResponse:
    return api.ContainerAllocateResponse(
        envs=dict(edits.environment),
        mounts=[
            api.Mount(
                container_path=mount.container,
                host_path=str(mount.host),
                read_only=mount.read_only,
            )
            for mount in edits.mounts
        ],
        devices=[
            api.DeviceSpec(
                container_path=node.container, host_path=str(node.host), permissions="rw"
            )
            for node in edits.devices
        ],
        cdi_devices=[api.CDIDevice(name=name) for name in edits.cdi_devices],
    )
