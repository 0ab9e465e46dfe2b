"""The input of the page as one record: a replica's copies and its decision."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mpslice.nodelayout import NodeLayout
from planner.controller import Controller
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.sites import serving
from planner.state.snapshot import build_snapshot
from planner.stranded import stranded_gb
from planner.view import Decision


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as one replica sees it.

    `unreadable` are nodes whose NodeLayout cannot be parsed, and why. `decision` is the leader's
    newest, None on every other replica and until the first one is made; only without it are the
    `pods` given. `leader` is the name of the leader's pod, "" while there is none.
    """

    layouts: Mapping[str, NodeLayout] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    decision: Decision | None = None
    pods: tuple[Pod, ...] = ()
    label: str = ""
    leader: str = ""


def see(controller: Controller, *, label: str, leader: Callable[[], str]) -> Seen:
    """Returns what a replica sees now."""
    cluster, decision = controller.cluster, controller.newest
    pods = cluster.pods if decision is None else ()
    return Seen(cluster.layouts, cluster.unreadable, decision, pods, label, leader())


def stranded(controller: Controller, label: tuple[str, str]) -> int:
    """The gb that even the least demanding slice pod cannot use; see stranded_gb.

    A replica that does not lead has no snapshot and builds one.
    """
    decision = controller.newest
    if decision is not None:
        made = decision.plan
        pending = [p.pod for p in made.placements] + [r.pod for r in made.refusals]
        return _total(decision.snapshot, pending)
    cluster = controller.cluster
    pods = cluster.pods
    labelled = (n for n in cluster.nodes if n.labels.get(label[0]) == label[1])
    snapshot = build_snapshot(labelled, serving(cluster.layouts.values()), pods)
    return _total(snapshot, [pod for pod in pods if pod.is_pending])


def _total(snapshot: Snapshot, pending: Iterable[Pod]) -> int:
    return sum(gb for _, _, gb in stranded_gb(snapshot, pending))
