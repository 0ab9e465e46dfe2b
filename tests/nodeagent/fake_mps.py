"""MPS daemons in memory that do what a test says: the fake of `MpsControl`."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

from mpslice.gpus import GpuUuid
from nodeagent.hardware import Backstop, MpsHealth
from nodeagent.pulse import Pulse


class FakeMps:
    """By itself a daemon grants at once what it is asked, and ends when it is handed back."""

    def __init__(self) -> None:
        self.changed = Pulse()
        self.ready = asyncio.Event()
        self.ready.set()
        self.asked: list[str] = []  # by containers that start
        self.held: Mapping[GpuUuid, Backstop] = {}
        self.starting: set[GpuUuid] = set()
        self.ending: set[GpuUuid] = set()
        self.on_hold: Callable[[Mapping[GpuUuid, Backstop]], None] = lambda _: None
        self._health: dict[GpuUuid, MpsHealth] = {}

    def become(self, gpu: str, health: MpsHealth) -> None:
        """From now on the daemon fares so."""
        self._health[GpuUuid(gpu)] = health
        self.changed.beat()

    def start(self, gpu: str) -> None:
        """It has started."""
        self.starting.discard(GpuUuid(gpu))
        self.changed.beat()

    def end(self, gpu: str) -> None:
        """It has ended."""
        self.ending.discard(GpuUuid(gpu))
        self.changed.beat()

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        return {gpu: self._health.get(gpu, MpsHealth()) for gpu in {*self.held, *self.ending}}

    async def hold(self, backstops: Mapping[GpuUuid, Backstop]) -> None:
        self.on_hold(backstops)
        news = backstops.keys() != self.held.keys()
        self.held = dict(backstops)
        if news:
            self.changed.beat()

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        return frozenset(gpus) & self.starting

    async def wait_ready(self, gpu: GpuUuid) -> None:
        self.asked.append(gpu)
        await self.ready.wait()

    async def follow(self) -> NoReturn:
        while True:
            await self.changed.after(self.changed.count)
