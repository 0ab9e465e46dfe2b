"""What is under way when a trouble begins: the other half of the coverage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpslice.kube.api import PODS
from nodeagent.slices.record import Phase as SlicePhase
from planner.state.parse import parse_pod

if TYPE_CHECKING:
    from tests.simulation.run import Run

MOMENTS = (
    "idle",
    "planner starts",
    "agent starts",
    "agent is away",
    "pod is new",
    "pod waits for its slice",
    "pod is offered its slice",
    "pod backs off",
    "pod is bound, not admitted",
    "pod runs",
    "pod ends",
    "slice is carved",
    "slice is withdrawn",
    "another trouble",
)


def moments(run: Run) -> set[str]:
    """Those that it is now; "idle" when it is none."""
    return set(_moments(run)) or {"idle"}


def _moments(run: Run) -> Iterator[str]:
    if any(count > 0 for count in run.network.active.values()):
        yield "another trouble"
    newest = run.newest
    if newest is None:
        yield "planner starts"
    yield from _of_agents(run)
    progress = newest.progress if newest is not None else {}
    names = {
        "Carving": "pod waits for its slice",
        "Offered": "pod is offered its slice",
        "Backoff": "pod backs off",
    }
    admitted = {uid for agent in run.agents for uid in agent.kubelet.admitted}
    for pod in map(parse_pod, run.api.all(PODS)):
        if pod.terminating:
            yield "pod ends"
        elif pod.uid in admitted:
            yield "pod runs"
        elif pod.node and not pod.finished:
            yield "pod is bound, not admitted"
        elif not pod.finished:
            phase = progress.get(pod.uid)
            yield names.get(str(phase.phase) if phase else "", "pod is new")


def _of_agents(run: Run) -> Iterator[str]:
    for agent in run.agents:
        if agent.local is None:
            yield "agent is away"
            continue
        if not agent.is_serving:
            yield "agent starts"
        table = agent.local.table
        phases = {table.get(id_).phase for id_ in table.slices}
        if SlicePhase.CARVED in phases:
            yield "slice is carved"
        if phases & {SlicePhase.CLOSED, SlicePhase.RETIRED}:
            yield "slice is withdrawn"
