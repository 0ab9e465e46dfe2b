"""What must hold in a run, read plainly from the API, the kubelets and the local copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpslice.kube.api import PODS
from planner.model.pods import Pod
from planner.state.parse import parse_pod
from tests.api.model import Entry
from tests.simulation.copies import stale_in_agent, stale_in_planner

if TYPE_CHECKING:
    from tests.simulation.run import Run


class Judge:
    """Tells the run of what is broken."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._capacities = {
            f"GPU-n{node}-{number}": capacity
            for node, gpus in enumerate(run.script.gpus)
            for number, capacity in enumerate(gpus)
        }

    def saw(self, plural: str, entry: Entry) -> None:
        """Every change of the API, when it is made."""
        if plural == "nodelayouts" and entry.new is not None:
            for gpu in entry.new["spec"].get("gpus") or ():
                gb = sum(int(size[:-2]) * n for size, n in gpu["slices"].items())
                if gb > self._capacities[gpu["uuid"]]:
                    self._run.problem(f"the layout of {gpu['uuid']} is larger than the GPU: {gpu}")

    def all_that_fit_are_bound(self) -> None:
        """No pod waits for which there is room, unless it is kept for another."""
        newest = self._run.newest
        if newest is None:
            self._run.problem("no planner leads")
            return
        if newest.plan.reservations:
            return
        for pod in self._run.waiting():
            fits = [n for n in range(len(self._run.agents)) if self._fits(pod, n)]
            if fits:
                self._run.problem(f"{pod.key} fits n{fits[0]} and is not bound: {self.why(pod)}")

    def all_that_wait_are_told_why(self) -> None:
        """In the pod itself."""
        for pod in self._run.waiting():
            if pod.available is None or pod.available.status:
                self._run.problem(f"{pod.key} has not been told why it waits: {self.why(pod)}")

    def why(self, pod: Pod) -> str:
        """What the planner says of the pod."""
        newest = self._run.newest
        if newest is None:
            return "no planner leads"
        refusals = [r for r in newest.refused if r.pod.uid == pod.uid]
        placed = [p.node for p in newest.plan.placements if p.pod.uid == pod.uid]
        return f"{newest.progress.get(pod.uid)} placed on {placed}, refused {refusals}, {pod}"

    def _fits(self, pod: Pod, index: int) -> bool:
        """Whether the node has room for the pod beside what is bound to it."""
        name, agent = f"n{index}", self._run.agents[index]
        if any(value != name for key, value in pod.constraints.node_selector if key == "host"):
            return False
        there = [
            other
            for other in map(parse_pod, self._run.api.all(PODS))
            if other.node == name and not other.finished
        ]
        cpu = 32_000 - sum(other.requests.cpu_milli for other in there)
        rooms = {gpu.uuid: self._capacities[gpu.uuid] for gpu in agent.gpus.read()}
        for device in agent.kubelet.claims:
            rooms[device.gpu] -= device.size
        for size in sorted(pod.seats, reverse=True):
            best = max(rooms, key=lambda uuid: rooms[uuid])
            if rooms[best] < size:
                return False
            rooms[best] -= size
        return cpu >= pod.requests.cpu_milli

    def copies_are_true(self) -> None:
        """What everybody of ours believes is what the API has."""
        api = self._run.api
        for planner in self._run.planners:
            if planner.controller is not None:
                self._tell(planner.name, stale_in_planner(api, planner.controller))
        for agent in self._run.agents:
            if agent.controller is not None:
                self._tell(f"agent {agent.name}", stale_in_agent(api, agent.name, agent.controller))

    def _tell(self, who: str, stale: Iterator[str]) -> None:
        for what in stale:
            self._run.problem(f"{who} sees {what}")
