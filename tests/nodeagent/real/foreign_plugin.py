"""Somebody else's device plugin in the test's process, as NVIDIA's or nos's stands beside ours."""

# ruff: noqa: N802  names are gRPC's

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from nodeagent.kubelet.podresources import CHANNEL_OPTIONS
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import (
    DevicePluginServicer,
    RegistrationStub,
    add_DevicePluginServicer_to_server,
)
from tests.waiting import DEADLINE


class _Servicer(DevicePluginServicer):
    def __init__(self, ids: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ids = ids
        self._environment = environment
        self.ended = asyncio.Event()

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> api.DevicePluginOptions:
        return api.DevicePluginOptions()

    async def ListAndWatch(
        self, request: Any, context: Any
    ) -> AsyncIterator[api.ListAndWatchResponse]:
        devices = [api.Device(ID=id_, health="Healthy") for id_ in self._ids]
        yield api.ListAndWatchResponse(devices=devices)
        await self.ended.wait()

    async def Allocate(self, request: api.AllocateRequest, context: Any) -> api.AllocateResponse:
        answer = api.ContainerAllocateResponse(envs=self._environment)
        answers = [answer] * len(request.container_requests)
        return api.AllocateResponse(container_responses=answers)

    async def GetPreferredAllocation(
        self, request: Any, context: Any
    ) -> api.PreferredAllocationResponse:
        raise AssertionError("the options say that it is not there")

    async def PreStartContainer(self, request: Any, context: Any) -> api.PreStartContainerResponse:
        raise AssertionError("the options say that it is not there")


@asynccontextmanager
async def foreign_plugin(
    directory: Path, socket: str, resource: str, ids: Sequence[str], environment: Mapping[str, str]
) -> AsyncIterator[None]:
    """Offers devices to the kubelet while the block runs."""
    servicer = _Servicer(ids, environment)
    server = grpc.aio.server()
    add_DevicePluginServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{directory / socket}")
    await server.start()
    try:
        target = f"unix:{directory / 'kubelet.sock'}"
        async with grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) as channel:
            stub: Any = RegistrationStub(channel)
            request = api.RegisterRequest(
                version="v1beta1", endpoint=socket, resource_name=resource
            )
            await stub.Register(request, timeout=DEADLINE)
        yield
    finally:
        servicer.ended.set()
        await server.stop(0.5)
