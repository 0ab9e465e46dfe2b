"""One run: everything of a cluster on one virtual clock, from a script to what became of it."""

import asyncio
import gc
import hashlib
import logging
import random
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import jsonpatch

from mpslice.kube.api import NODES, PODS, Json
from nodeagent.cluster.node import ANNOTATIONS_SECONDS
from planner.model.pods import Pod
from planner.state.parse import parse_pod
from planner.view import Decision
from tests.api.model import ApiModel, Entry
from tests.planner.agents import node_manifest, node_status
from tests.simulation.agents import Agent, NodeGpus
from tests.simulation.clock import Clock, virtual_time
from tests.simulation.invariants import Judge
from tests.simulation.kubelet import Kubelet
from tests.simulation.moments import moments
from tests.simulation.network import Client, Network
from tests.simulation.planners import Planner
from tests.simulation.scheduler import SchedulerProcess
from tests.simulation.script import Arrival, Kind, Script, Trouble
from webhook.policy import mutate, validate
from webhook.settings import Settings

_RECOVERY = 330.0
"""Seconds after the last trouble within which everything that fits is bound. The longest of what a
pod may wait for is `planner.progress.machine`'s longest back-off."""

_ROUNDS = 12  # of ending all that runs; a pod of each may follow
_SETTLED = 20.0 + ANNOTATIONS_SECONDS + 20.0
"""Seconds in which the pods that end by themselves have, and the last of it is told."""

_LOOK = 5.0  # seconds
_SHIFT = 600.0  # seconds by which a clock is wrong
_QUIET = 330.0  # seconds in which nothing is written once nothing happens


@dataclass(slots=True)
class Outcome:
    """`problems` are broken invariants, `coverage` counts each trouble at each moment."""

    seed: int
    problems: list[str] = field(default_factory=list)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    digest: str = ""


class Run:
    """The cluster of a run. `tell` gets a line for each thing that happens; each node has `cpu`."""

    cpu = "32"

    def __init__(self, script: Script, clock: Clock, tell: Callable[[str], None] | None) -> None:
        self.script = script
        self.clock = clock
        self.outcome = Outcome(script.seed)
        self.api = ApiModel(clock.stamp)
        self.dice = random.Random(script.seed + 1)
        self.network = Network(self.api, self.dice, self.say, self.problem)
        self.judge = Judge(self)
        self.failing = asyncio.Event()
        self._tell = tell
        self._hash = hashlib.sha256()
        self._lifetimes = {f"default/{a.name}": a.seconds for a in script.arrivals}
        self._ungated = {f"default/{a.name}" for a in script.arrivals if not a.gated}
        self.planners = [
            Planner(f"planner {n}", self.network, clock, self.problem)
            for n in range(script.planners)
        ]
        self.agents = [
            self._agent(f"n{index}", capacities) for index, capacities in enumerate(script.gpus)
        ]
        client = Client(self.network, "scheduler")
        self.scheduler = SchedulerProcess(client, clock, self.dice)
        self.api.on_change = self._changed

    def _agent(self, name: str, capacities: tuple[int, ...]) -> Agent:
        client = Client(self.network, f"kubelet {name}")
        kubelet = Kubelet(client, name, self.clock, self.lifetime, self.problem, self.is_lost)
        return Agent(name, NodeGpus(name, capacities, kubelet), kubelet, self.network, self.problem)

    def lifetime(self, pod: str) -> float:
        """Seconds that a pod, by its key, runs."""
        return self._lifetimes.get(pod, 1e6)

    def is_lost(self, pod: str, broke: float) -> bool:
        """Whether a scheduler bound the pod, by its key, that could not follow the nodes, and it
        never had a gate, or its node's GPU broke in that time, at `broke`, and is broken yet."""
        since = self.scheduler.blind.get(pod)
        return since is not None and (pod in self._ungated or broke >= since)

    def problem(self, text: str) -> None:
        """An invariant is broken: the run ends."""
        if self.failing.is_set():
            return  # what comes then is its end, or follows from the first
        self.outcome.problems.append(f"at {self.clock.passed:.2f} s: {text}")
        self.say(f"BROKEN {text}")
        self.failing.set()

    def say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.clock.passed:9.3f}  {text}")

    def _changed(self, plural: str, entry: Entry) -> None:
        """Sees every change of the API."""
        if self.failing.is_set():
            return
        line = f"{self.clock.seconds:.6f} {plural} {entry.name} {entry.version} {entry.new}"
        self._hash.update(line.encode())
        if self._tell is not None:
            self.say(f"{plural} {'/'.join(entry.name)} {_difference(entry)}")
        self.judge.saw(plural, entry)

    # The run.

    async def play(self) -> None:
        """All of it; it ends early when an invariant is broken."""
        playing = asyncio.create_task(self._play())
        failing = asyncio.create_task(self.failing.wait())
        await asyncio.wait({playing, failing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (playing, failing):
            task.cancel()
        await asyncio.wait({playing, failing})
        if not playing.cancelled() and (error := playing.exception()) is not None:
            self.problem("".join(traceback.format_exception(error)))

    async def _play(self) -> None:
        processes = [self.scheduler.run(), *(agent.kubelet.run() for agent in self.agents)]
        tasks = [asyncio.create_task(self._must_last(process)) for process in processes]
        for agent, capacities in zip(self.agents, self.script.gpus, strict=True):
            self._add_node(agent.name, len(capacities))
            agent.start()
        for planner in self.planners:
            planner.start()
        await self._happen()
        self.say("all troubles are over")
        await self._recover()
        for task in tasks:
            task.cancel()

    async def _happen(self) -> None:
        """What the script says."""
        happens: list[Arrival | Trouble] = [*self.script.arrivals, *self.script.troubles]
        for what in sorted(happens, key=lambda each: each.at):
            await asyncio.sleep(what.at - self.clock.passed)
            if isinstance(what, Arrival):
                self.create(what)
            else:
                self.begin(what)
        await asyncio.sleep(self.script.end - self.clock.passed)

    async def _must_last(self, process: Coroutine[Any, Any, None]) -> None:
        try:
            await process
        except Exception:  # noqa: BLE001  # whatever it is, it is to be told
            self.problem(traceback.format_exc())

    async def _recover(self) -> None:
        """Everything that fits is bound; the rest is, once what runs has ended; then all rests."""
        await self._until_bound(_RECOVERY)
        self.judge.all_that_fit_are_bound()
        self.judge.all_that_wait_are_told_why()
        for _ in range(_ROUNDS):
            if not self.waiting():
                break
            for agent in self.agents:
                agent.kubelet.end_all()
            await self._until_bound(_RECOVERY)
        for pod in self.waiting():
            self.problem(f"{pod.key} is not bound though nothing else runs: {self.judge.why(pod)}")
        await asyncio.sleep(_SETTLED)
        before = self.network.writes.copy()
        await asyncio.sleep(_QUIET)
        writes = self.network.writes - before
        ours = {n: c for n, c in writes.items() if n.startswith(("planner", "agent", "scheduler"))}
        if ours:
            self.problem(f"writes while nothing happened: {ours}")
        self.judge.copies_are_true()

    async def _until_bound(self, seconds: float) -> None:
        for _ in range(int(seconds / _LOOK)):
            if self.newest is not None and not self.waiting():
                return
            await asyncio.sleep(_LOOK)

    @property
    def newest(self) -> Decision | None:
        """The leading planner's newest decision."""
        found = (p.controller.newest for p in self.planners if p.controller is not None)
        return next((decision for decision in found if decision is not None), None)

    def waiting(self) -> list[Pod]:
        """Pods that are bound nowhere, by their keys."""
        return [parse_pod(pod) for pod in self.api.all(PODS) if not pod["spec"].get("nodeName")]

    # What happens.

    def _add_node(self, name: str, gpus: int) -> None:
        node: Json = node_manifest(name) | node_status(self.cpu)
        node["metadata"]["labels"]["host"] = name
        node["spec"] = {}
        self.api.put(NODES, node)

    def create(self, arrival: Arrival) -> None:
        """Somebody creates the pod; the real admission policy completes and judges it."""
        pod = _pod(arrival)
        settings = Settings(host_ipc=False, gate=arrival.gated)
        verdict = mutate(pod, settings)
        pod = jsonpatch.apply_patch(pod, list(verdict.patch))
        judged = validate(pod, settings)
        if not (verdict.allowed and judged.allowed):
            self.problem(f"pod {arrival.name} is refused: {verdict.message} {judged.message}")
            return
        self.outcome.seen["pods"] += 1
        self.api.create(PODS, pod, "default")

    def begin(self, trouble: Trouble) -> None:
        """It begins now, and ends by itself."""
        self.say(f"--- {trouble}")
        for moment in moments(self):
            self.outcome.coverage[trouble.kind, moment] += 1
        loop = asyncio.get_running_loop()
        agent = self.agents[trouble.target % len(self.agents)]
        planner = self.planners[trouble.target % len(self.planners)]
        match trouble.kind:
            case Kind.PLANNER_KILLED | Kind.PLANNER_STOPPED:
                (planner.kill if trouble.kind is Kind.PLANNER_KILLED else planner.stop)()
                loop.call_later(trouble.seconds, planner.start)
            case Kind.PLANNER_AHEAD | Kind.PLANNER_BEHIND:
                shift = _SHIFT if trouble.kind is Kind.PLANNER_AHEAD else -_SHIFT
                planner.put_forward(shift)
                loop.call_later(trouble.seconds, planner.put_forward, -shift)
            case Kind.AGENT_KILLED | Kind.AGENT_STOPPED:
                (agent.kill if trouble.kind is Kind.AGENT_KILLED else agent.stop)()
                loop.call_later(trouble.seconds, agent.start)
            case Kind.GPU_SICK:
                agent.kubelet.excuse(trouble.seconds)
                agent.gpus.mark("XidCriticalError")
                loop.call_later(trouble.seconds, agent.gpus.mark, None)
            case Kind.FORCED:
                self._force_delete(agent.name)
            case _:
                self.network.begin(trouble.kind)
                loop.call_later(trouble.seconds, self.network.end, trouble.kind)

    def _force_delete(self, node: str) -> None:
        for pod in self.api.all(PODS):
            if pod["spec"].get("nodeName") == node:
                self.api.remove(PODS, pod["metadata"]["name"], "default")


def _pod(arrival: Arrival) -> Json:
    containers = [
        {
            "name": f"c{number}",
            "image": "none",
            "resources": {
                "limits": {f"nvidia.com/gpu-{size}gb": "1"},
                "requests": {"cpu": f"{arrival.cpu_milli if number == 0 else 0}m"},
            },
        }
        for number, size in enumerate(arrival.sizes)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": arrival.name, "namespace": "default"},
        "spec": {
            "containers": containers,
            "priority": arrival.priority,
            **({"nodeSelector": {"host": arrival.node}} if arrival.node else {}),
        },
    }


def _difference(entry: Entry) -> str:
    """What the change changed, in a line."""
    if entry.old is None or entry.new is None:
        return "created" if entry.old is None else "deleted"
    return " ".join(
        f"{op['path']}={op.get('value', op['op'])}"
        for op in jsonpatch.make_patch(entry.old, entry.new)
        if "managedFields" not in op["path"] and "resourceVersion" not in op["path"]
    )[:400]


def play(script: Script, tell: Callable[[str], None] | None = None) -> Outcome:
    """Plays the script; an exception is a broken invariant, too."""
    clock = Clock()
    disabled = logging.root.manager.disable
    logging.disable()
    gc.disable()  # it would take a fifth of the time
    with virtual_time(clock, script.seed) as loop:
        run = Run(script, clock, tell)
        try:
            loop.run_until_complete(run.play())
        except Exception:  # noqa: BLE001  # whatever it is, its seed is to be told
            run.problem(traceback.format_exc())
        refused = sum(agent.kubelet.refused for agent in run.agents)
        run.outcome.seen["pods refused while a GPU or an agent was away"] = refused
        run.outcome.digest = run._hash.hexdigest()
    gc.enable()
    logging.disable(disabled)
    return run.outcome
