"""Keeps the plugin of every size registered with the kubelet, whatever becomes of the kubelet.

Registering milliseconds after kubelet.sock is made anew decides whether the pods that are admitted
again survive (kubelet/cm/devicemanager/manager.go, "no healthy devices present").
"""

import asyncio
import logging
import os
import secrets
import socket as socket_module
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, cast

import grpc

from mpslice.kube.reflector import Backoff
from mpslice.slices import SliceSize, resource_name
from nodeagent.errors import KubeletUnavailable
from nodeagent.kubelet.plugin import OPTIONS, Endpoint
from nodeagent.kubelet.podresources import CHANNEL_OPTIONS
from nodeagent.kubelet.service import SliceService
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as api
from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import RegistrationStub
from nodeagent.linux.inotify import DirectoryWatch
from nodeagent.pulse import Pulse

if TYPE_CHECKING:
    from nodeagent.kubelet_api.deviceplugin_v1beta1_pb2_grpc import RegistrationAsyncStub

_REGISTER: Final = 12.0  # seconds; the kubelet dials back for up to 10 s inside the call
_STREAM: Final = 5.0  # seconds from a registration to its ListAndWatch
_SHORT: Final = 1.0  # seconds; whoever ends a stream sooner may do so again and again
_AGAIN: Final = 0.002  # seconds until the second try: a kubelet binds its socket before it listens
_LONGEST_AGAIN: Final = 10.0
_SHORTLY: Final = 0.010  # seconds in which a list is sent that has changed
_ABSENT: Final = 3600.0
_REFUSAL: Final = 0.1

_PREFIX: Final = "mpslice-"
CHECKPOINT: Final = "kubelet_internal_checkpoint"

_API_VERSION: Final = "v1beta1"

log = logging.getLogger(__name__)


class KubeletLink:
    """Serves and registers each size that it was given; `changed` beats when `live` may differ,
    `reconnected` when the kubelet may be another one.

    The directory is watched from its making on, so that no kubelet is missed; `close` ends that.
    """

    def __init__(self, socket: Path, service: SliceService) -> None:
        self.changed = Pulse()
        self.reconnected = Pulse()
        self.registrations = 0
        self._socket = socket
        self._service = service
        self._watch = DirectoryWatch(socket.parent)
        self._kubelets = Pulse()  # beats for each new kubelet.sock
        self._channel: grpc.aio.Channel | None = None
        self._live: dict[SliceSize, Endpoint] = {}
        self._met: set[SliceSize] = set()  # that were live at some time
        self._heard_of = -1  # kubelets, when `reconnected` beat last
        self._keepers: dict[SliceSize, asyncio.Task[NoReturn]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        # A name of its own per process and server: one that ends unlinks its path, whoever's it is.
        self._names = (f"{_PREFIX}{secrets.token_hex(4)}-{number}.sock" for number in count())

    async def close(self) -> None:
        """Lets go of the directory and the kubelet."""
        self._watch.close()
        await self._drop_channel(self._channel)

    def live(self, sizes: frozenset[SliceSize]) -> bool:
        """Whether the kubelet listens to the plugin of each of these."""
        return sizes <= self._live.keys()

    def serve(self, sizes: frozenset[SliceSize], tasks: asyncio.TaskGroup) -> None:
        """Serves these too from now on, each in a task of its own; returns at once."""
        for size in sizes - self._keepers.keys():
            self._keepers[size] = tasks.create_task(self._keep(size), name=resource_name(size))

    async def leave(self, but: frozenset[SliceSize]) -> None:
        """Serves these alone: somebody else is to have the other sizes' names to himself."""
        keepers = [self._keepers.pop(size) for size in self._keepers.keys() - but]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def stop(self) -> None:
        """Ends every endpoint in order; the kubelet then offers none of the slices."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._drop_channel(self._channel)

    async def until_live(self, sizes: frozenset[SliceSize], seconds: float) -> None:
        """Waits until `live`; raises KubeletUnavailable after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not self.live(sizes):
                    await self.changed.after(self.changed.count)
        except TimeoutError as error:
            missing = ", ".join(resource_name(size) for size in sorted(sizes - self._live.keys()))
            raise KubeletUnavailable(
                f"the kubelet does not listen to {missing}; its log tells why"
            ) from error

    async def until_told(self, sizes: Iterable[SliceSize]) -> None:
        """Returns once the kubelet has been sent the lists of these as they are now, or shortly.

        To ask the kubelet before that would be too early. It may be too early after it, too: the
        kubelet says nothing when it has taken a list in.
        """
        changes = self._service.changed.count
        endpoints = [self._live[size] for size in sizes if size in self._live]
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHORTLY):
                for endpoint in endpoints:
                    while endpoint.told_of < changes:
                        await endpoint.told.after(endpoint.told.count)

    async def follow(self, on_checkpoint: Callable[[], None]) -> NoReturn:
        """Looks out for a new kubelet and for its checkpoint, until cancelled."""
        while True:
            names = await self._watch.next()
            if names.makes(self._socket.name):
                log.info("a kubelet has started", extra={"socket": str(self._socket)})
                await self._drop_channel(self._channel)
                self._kubelets.beat()
            if names.touches(CHECKPOINT):
                on_checkpoint()

    async def _keep(self, size: SliceSize) -> NoReturn:
        backoff = Backoff(first=_AGAIN, longest=_LONGEST_AGAIN)
        while True:
            kubelet = self._kubelets.count
            delay = await self._until_cut_off(size, kubelet, backoff)
            if await self._kubelets.within(kubelet, delay):
                backoff.reset()

    async def _until_cut_off(self, size: SliceSize, kubelet: int, backoff: Backoff) -> float:
        """Serves one kubelet until another comes or the stream ends; the seconds to wait then."""
        if not self._socket.exists():
            return _ABSENT  # whoever makes it wakes us
        # A kubelet that starts deletes all sockets, so each needs an endpoint made after it.
        newer = asyncio.ensure_future(self._kubelets.after(kubelet))
        life = asyncio.ensure_future(self._serve_one(size, backoff))
        try:
            await asyncio.wait((newer, life), return_when=asyncio.FIRST_COMPLETED)
        finally:
            newer.cancel()
            self._put_live(size, None)
            failure = _failure_of(life)
            self._end(life)
        if failure is None:
            return 0.0
        if not isinstance(failure, KubeletUnavailable | OSError):
            raise failure
        about = {"resource": resource_name(size), "error": str(failure)}
        log.info("not registered with the kubelet", extra=about)
        return backoff.delay()

    def _end(self, life: asyncio.Task[None]) -> None:
        """Nobody waits for an endpoint's end but `stop`: the next kubelet is not to."""
        self._ending.add(life)
        life.add_done_callback(self._ended)
        life.cancel()

    def _ended(self, life: asyncio.Task[None]) -> None:
        self._ending.discard(life)
        _failure_of(life)

    async def _serve_one(self, size: SliceSize, backoff: Backoff) -> None:
        """One endpoint from its registration to the end of its stream.

        Raises KubeletUnavailable also for a stream that was short: an agent beside us, which a
        forced deletion can leave behind, would else push us out, and we it, without a pause.
        """
        endpoint = Endpoint(size, self._socket.parent / next(self._names), self._service)
        try:
            await endpoint.start()
            await self._register(endpoint)
            try:
                async with asyncio.timeout(_STREAM):
                    await endpoint.streaming.wait()
            except TimeoutError as error:
                raise KubeletUnavailable("registered, and the kubelet does not listen") from error
            began = monotonic()
            self._put_live(size, endpoint)
            await endpoint.ended.wait()
            if monotonic() - began < _SHORT:
                raise KubeletUnavailable("the kubelet ended the stream at once")
            backoff.reset()
        finally:
            await endpoint.stop()

    async def _register(self, endpoint: Endpoint) -> None:
        request = api.RegisterRequest(
            version=_API_VERSION,
            endpoint=endpoint.socket.name,
            resource_name=resource_name(endpoint.size),
            options=OPTIONS,
        )
        channel = self._channel_to_kubelet()
        try:
            stub = cast("RegistrationAsyncStub", RegistrationStub(channel))
            await stub.Register(request, timeout=_REGISTER)
        except grpc.aio.AioRpcError as error:
            await self._drop_channel(channel)  # a new one connects at once, this when it likes
            raise KubeletUnavailable(f"{self._socket}: {error.details()}") from error
        self.registrations += 1

    def _channel_to_kubelet(self) -> grpc.aio.Channel:
        """One connection to each kubelet, kept: a new size is registered 2 ms sooner."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self._socket}", CHANNEL_OPTIONS)
        return self._channel

    async def _drop_channel(self, channel: grpc.aio.Channel | None) -> None:
        if channel is not None:
            if self._channel is channel:
                self._channel = None
            await channel.close()

    def _put_live(self, size: SliceSize, endpoint: Endpoint | None) -> None:
        if endpoint is not None:
            self._live[size] = endpoint
            if size in self._met or self._heard_of != self._kubelets.count:
                self._heard_of = self._kubelets.count
                self.reconnected.beat()
            self._met.add(size)
        else:
            self._live.pop(size, None)
        self.changed.beat()


def _failure_of(life: asyncio.Task[None]) -> BaseException | None:
    """What ended an endpoint, None while it lives or when its stream just ended."""
    if not life.done():
        return None
    if life.cancelled():  # gRPC cancels the calls of a channel that is closed
        return KubeletUnavailable("the connection to the kubelet was closed")
    return life.exception()


def remove_left_sockets(directory: Path) -> None:
    """Takes away the sockets of agents that were killed: those that nobody listens on. Blocks."""
    for path in directory.glob(f"{_PREFIX}*.sock"):
        with socket_module.socket(socket_module.AF_UNIX) as client:
            client.settimeout(_REFUSAL)
            try:
                client.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # alive and busy, or gone already
