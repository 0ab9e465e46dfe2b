"""The kubelet's PodResources API as a client: who has which device, and which devices it knows.

It answers 100 calls a second after a burst of 10 (kubelet/apis/podresources/constants.go) and
refuses more; a refusal, and a kubelet that is just starting, are waited out here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

import grpc

from mpslice.errors import InvalidDeviceId
from mpslice.gpus import DeviceId
from mpslice.slices import parse_resource
from nodeagent.errors import KubeletUnavailable
from nodeagent.kubelet_api import podresources_v1_pb2 as api
from nodeagent.kubelet_api.podresources_v1_pb2_grpc import PodResourcesListerStub
from nodeagent.slices.evidence import Claim

if TYPE_CHECKING:
    from nodeagent.kubelet_api.podresources_v1_pb2_grpc import PodResourcesListerAsyncStub

T = TypeVar("T")

_CALL: Final = 2.0  # seconds, through a restart of the kubelet
_PAUSE: Final = 0.010  # one token of the kubelet's rate limit
_ABSENT_PAUSE: Final = 0.050
_LARGEST: Final = 16 << 20  # bytes; the kubelet's own limit for this API

_PASSING: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})

CHANNEL_OPTIONS: Final = (
    # Python percent-encodes the socket's path into :authority, which Go's servers refuse.
    ("grpc.default_authority", "localhost"),
    # Without it a new channel inherits the reconnect backoff of the one before it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", _LARGEST),
)


class PodResources:
    """A client of one socket; it connects when it is used, and again after a kubelet restart.

    Every call raises KubeletUnavailable when there is no answer in time. They go one after another:
    closing a channel after a failure would cancel whatever else is in flight on it.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: grpc.aio.Channel | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def list(self) -> tuple[Claim, ...]:
        """The slices of every active pod's app containers and sidecars."""
        response = await self._call(lambda stub: stub.List(api.ListPodResourcesRequest()))
        return tuple(claim for pod in response.pod_resources for claim in claims_of(pod))

    async def others(self) -> dict[str, frozenset[str]]:
        """The ids of every device but slices that a container has or the kubelet could give it."""
        listed = await self._call(lambda stub: stub.List(api.ListPodResourcesRequest()))
        known = await self._call(
            lambda stub: stub.GetAllocatableResources(api.AllocatableResourcesRequest())
        )
        containers = (container for pod in listed.pod_resources for container in pod.containers)
        found: dict[str, frozenset[str]] = {}
        for entry in chain(known.devices, *(container.devices for container in containers)):
            if parse_resource(entry.resource_name) is None:
                ids = found.get(entry.resource_name, frozenset())
                found[entry.resource_name] = ids.union(entry.device_ids)
        return found

    async def allocatable(self) -> frozenset[DeviceId]:
        """The slices that the kubelet knows as healthy, held or not."""
        request = api.AllocatableResourcesRequest()
        response = await self._call(lambda stub: stub.GetAllocatableResources(request))
        return frozenset(_slices(response.devices))

    async def _call(self, call: "Callable[[PodResourcesListerAsyncStub], Awaitable[T]]") -> T:
        async with self._turn:
            return await self._call_now(call)

    async def _call_now(self, call: "Callable[[PodResourcesListerAsyncStub], Awaitable[T]]") -> T:
        why = "no answer"
        try:
            async with asyncio.timeout(_CALL):
                while True:
                    try:
                        return await call(self._stub())
                    except grpc.aio.AioRpcError as error:
                        why = error.details() or str(error.code())
                        if error.code() not in _PASSING:
                            break
                        await self._wait_out(error.code())
        except TimeoutError:
            await self.close()
        raise KubeletUnavailable(f"PodResources on {self._socket}: {why}")

    async def _wait_out(self, code: grpc.StatusCode) -> None:
        if code is grpc.StatusCode.UNAVAILABLE:
            await self.close()  # a new channel connects at once, an old one when its backoff ends
            await asyncio.sleep(_ABSENT_PAUSE)
        else:
            await asyncio.sleep(_PAUSE)

    def _stub(self) -> "PodResourcesListerAsyncStub":
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self._socket}", CHANNEL_OPTIONS)
        return cast("PodResourcesListerAsyncStub", PodResourcesListerStub(self._channel))


def claims_of(pod: api.PodResources) -> Iterable[Claim]:
    """The slices in one entry of List; other people's devices are left out."""
    key = f"{pod.namespace}/{pod.name}"
    for container in pod.containers:
        for device in _slices(container.devices):
            yield Claim(device, container.name, pod=key)


def _slices(devices: Iterable[api.ContainerDevices]) -> Iterable[DeviceId]:
    for entry in devices:
        yield from slice_ids(entry.resource_name, entry.device_ids)


def slice_ids(resource: str, ids: Iterable[str]) -> Iterable[DeviceId]:
    """The ids of a slice resource; nothing for any other resource."""
    size = parse_resource(resource)
    if size is None:
        return
    for text in ids:
        try:
            device = DeviceId.parse(text)
        except InvalidDeviceId:
            continue  # somebody else's plugin under a name like ours
        if device.size == size:
            yield device
