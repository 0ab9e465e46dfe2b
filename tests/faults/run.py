"""One run: pods and faults as a script has them, then what must hold once all faults are over."""

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.cluster.crowd import slice_pod
from benchmarks.cluster.load import Life
from mpslice.kube.api import PODS, Json
from mpslice.kube.errors import Conflict, KubeError, NotFound
from planner.model.pods import GATE
from tests.faults.script import Arrival, Hit, Moment, Script
from tests.faults.stand import Stand
from tests.faults.watch import Watch
from tests.waiting import DEADLINE

_PATIENCE: Final = 3.0  # seconds that a fault waits for its moment
_LOOK: Final = 0.1
_QUIET: Final = 3.0  # seconds in which nothing may be written
_AGAIN: Final = 0.2


@dataclass(slots=True)
class Outcome:
    """`recovery` are the seconds from the end of the last fault until all was well again."""

    seed: int
    problems: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    coverage: Counter[tuple[str, Moment]] = field(default_factory=Counter)
    recovery: float = 0.0
    excused: int = 0
    pods: int = 0


class Run:
    """The run of a script on a stand on which nothing else happens. `tell` gets its history."""

    def __init__(self, stand: Stand, script: Script, tell: Callable[[str], None]) -> None:
        self.outcome = Outcome(script.seed)
        self._stand, self._script = stand, script
        self._began = time.monotonic()
        self._tell = tell
        self._watch = Watch(stand, self._note)
        self._watch.on_end = self._remove_soon
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._refusal = ""  # of the newest pod that could not be made

    def _note(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:7.2f} s  {text}"
        self.outcome.history.append(line)
        self._tell(line)

    async def play(self) -> Outcome:
        """All of it; it ends early when an invariant is broken."""
        for node in self._stand.nodes:
            node.kubelet.forget_calls()
        excused = sum(node.kubelet.excused for node in self._stand.nodes)
        async with self._watch.follow():
            playing = asyncio.create_task(self._play())
            while not playing.done() and not self._stand.problems:
                await asyncio.wait({playing}, timeout=_LOOK)
            playing.cancel()
            (failure,) = await asyncio.gather(playing, return_exceptions=True)
            for task in self._removing.values():
                task.cancel()
        self.outcome.problems += self._stand.problems
        if isinstance(failure, Exception):
            self.outcome.problems.append("".join(traceback.format_exception(failure)))
        self.outcome.excused = sum(n.kubelet.excused for n in self._stand.nodes) - excused
        return self.outcome

    async def _play(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            arriving = [
                tasks.create_task(self._arrive(f"s{self._script.seed}-p{number}", arrival))
                for number, arrival in enumerate(self._script.arrivals)
            ]
            async with asyncio.TaskGroup() as hits:
                for hit in self._script.hits:
                    hits.create_task(self._hit(hit))
            last = max(arrival.at for arrival in self._script.arrivals)
            over = max(time.monotonic(), self._began + last)
            self._note("all faults are over")
            _, late = await asyncio.wait(arriving, timeout=DEADLINE)
            if late:
                ended = self._watch.ended_by_themselves()
                raise AssertionError(f"{len(late)} pods cannot be made: {self._refusal} {ended}")
        await self._until_well()
        self.outcome.recovery = time.monotonic() - over
        self._note(f"all is well after {self.outcome.recovery:.1f} s")
        until = time.monotonic() + DEADLINE
        while any(pod.waits for pod in self._watch.pods.values()) and time.monotonic() < until:
            await self._delete(bound=True)
            await self._until_well()
            await asyncio.sleep(_LOOK)  # a scheduler that is behind is waited for
        waiting = [name for name, pod in self._watch.pods.items() if pod.waits]
        if waiting:
            self._stand.problem(f"{waiting} are not bound though nothing else runs")
        await self._delete(bound=False)
        await self._until_well()
        await self._until_quiet()

    # What happens.

    async def _arrive(self, name: str, arrival: Arrival) -> None:
        """Somebody makes the pod, again and again where it cannot be done."""
        await asyncio.sleep(arrival.at)
        life = Life(gb=arrival.gb, cpu_milli=10, memory_mib=16, seconds=arrival.seconds or 0.0)
        body = slice_pod(name, life, forever=arrival.seconds is None)
        while True:
            try:
                made = await self._stand.kube.create(PODS, body, namespace="default")
            except Conflict:
                break  # it was made, and the answer lost
            except KubeError as error:
                self._refusal = str(error)
                self._note(f"{name} is refused: {self._refusal[:120]}")
                await asyncio.sleep(_AGAIN)
            else:
                self._check_gate(name, made)
                break
        self.outcome.pods += 1

    def _check_gate(self, name: str, made: Json) -> None:
        gates = [gate["name"] for gate in made["spec"].get("schedulingGates") or ()]
        if GATE not in gates:
            self._stand.problem(f"{name} was made without a gate")

    async def _hit(self, hit: Hit) -> None:
        await asyncio.sleep(hit.at)
        came = await self._watch.next(hit.moment, _PATIENCE)
        await asyncio.sleep(hit.delay)
        self.outcome.coverage[hit.fault.name, hit.moment if came else Moment.ANY] += 1
        self._note(f"--- {hit.fault.name} ({hit.target}) for {hit.seconds:g} s")
        await hit.fault.begin(self._stand, hit.target)
        try:
            await asyncio.sleep(hit.seconds)
        finally:
            await hit.fault.end(self._stand, hit.target)
        self._note(f"+++ {hit.fault.name} ({hit.target}) is over")

    def _remove_soon(self, name: str) -> None:
        """As a Job's controller does."""
        self._removing[name] = asyncio.create_task(self._remove(name, 0))

    async def _remove(self, name: str, grace_seconds: int) -> None:
        while True:
            try:
                await self._stand.kube.delete(
                    PODS, name, namespace="default", grace_seconds=grace_seconds
                )
            except NotFound:
                return
            except KubeError:
                await asyncio.sleep(_AGAIN)
            else:
                return

    async def _delete(self, *, bound: bool) -> None:
        """All pods, or those that are bound; returns when they are gone."""
        names = [name for name, pod in self._watch.pods.items() if pod.node or not bound]
        await asyncio.gather(*(self._remove(name, 1) for name in names))

        async def there() -> str:
            return ", ".join(name for name in names if name in self._watch.pods)

        await _until(there)

    # What must hold.

    async def _until_well(self) -> None:
        async def wrong() -> str:
            found = self._watch.ended_by_themselves() or self._watch.misplaced()
            try:
                return found or await self._watch.untrue()
            except KubeError as error:
                return str(error)

        await _until(wrong)

    async def _until_quiet(self) -> None:
        """Nothing is written while nothing happens."""
        deadline = time.monotonic() + DEADLINE
        while True:
            before = self._stand.proxy.writes.copy()
            await asyncio.sleep(_QUIET)
            written = self._stand.proxy.writes - before
            if not written:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"written while nothing happens: {dict(written)}")


async def _until(wrong: Callable[[], Awaitable[str]]) -> None:
    """Until nothing is wrong any more; raises AssertionError with what still is."""
    deadline = time.monotonic() + DEADLINE
    while found := await wrong():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE:g} s: {found}")
        await asyncio.sleep(_LOOK)


async def play(
    stand: Stand, script: Script, tell: Callable[[str], None] = lambda _line: None
) -> Outcome:
    """Plays the script."""
    return await Run(stand, script, tell).play()
