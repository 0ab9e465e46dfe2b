"""The real planner as processes of a run: controller, writer, Events and the election."""

import asyncio
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from mpslice.kube.elector import Elector, Timing
from mpslice.kube.events import EventRecorder
from planner.controller import Controller, Settings
from planner.metrics import Metrics
from planner.quarantine import Aside
from tests.planner.conftest import LABEL
from tests.simulation.clock import Clock
from tests.simulation.network import Client, Network

SETTINGS = Settings(label=LABEL, batch_idle=0.2, batch_max=2.0, gate=True, max_slices_per_gpu=48)

_TIMING: Final = Timing(retry=3.0)  # each second it would be a quarter of all that a run does


class _Metrics(Metrics):
    def __init__(self, problem: Callable[[str], None]) -> None:
        super().__init__()
        self._problem = problem

    def set_aside(self, aside: Aside) -> None:
        self._problem(f"no decision can be made with {aside.pod}: {aside.words}")


class Planner:
    """One replica's processes, one after the other."""

    def __init__(
        self,
        name: str,
        network: Network,
        clock: Clock,
        problem: Callable[[str], None],
    ) -> None:
        self.name = name
        self.ahead = timedelta()  # of the wall clock
        self.controller: Controller | None = None
        self._network = network
        self._clock = clock
        self._problem = problem
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None

    def _wall(self) -> datetime:
        return self._clock.wall + self.ahead

    def put_forward(self, seconds: float) -> None:
        """Its wall clock is wrong by so much more; fewer than 0 put it back."""
        self.ahead += timedelta(seconds=seconds)

    def start(self) -> None:
        if self._task is None:
            self._client = Client(self._network, self.name)
            self._task = asyncio.create_task(self._run(self._client))

    async def _run(self, client: Client) -> None:
        recorder = EventRecorder(client, "mpslice-planner")
        controller = self.controller = Controller(
            client, SETTINGS, recorder, _Metrics(self._problem), clock=self._wall
        )
        elector = Elector(
            client,
            namespace="mpslice-system",
            name="mpslice-planner",
            timing=_TIMING,
            identity=self.name,  # a container that starts anew has its pod's name still
            clock=partial(getattr, self._clock, "seconds"),
            message=controller.message,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(controller.follow())
                tasks.create_task(recorder.run())
                tasks.create_task(elector.run(controller.lead))
        except Exception:  # noqa: BLE001  # whatever it is, it is to be told
            self._problem(f"{self.name} ended: {traceback.format_exc()}")

    def kill(self) -> None:
        """SIGKILL: nothing that it was about to do is done."""
        if self._client is not None:
            self._client.dead = True
        self.stop()

    def stop(self) -> None:
        """SIGTERM: it gives the lease back."""
        if self._task is not None:
            self._task.cancel()
            self._task = self.controller = None
