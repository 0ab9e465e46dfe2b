"""What follows from a preemption: evictions, and pods that keep their gate meanwhile."""

from collections.abc import Collection, Iterable, Iterator

from planner.feasibility.nodes import node_refusal
from planner.model.pods import Pod
from planner.model.preemption import Preemption
from planner.model.snapshot import Snapshot
from planner.progress.note import read_note
from planner.writes.actions import Evict


def evictions(preemptions: Iterable[Preemption]) -> Iterator[Evict]:
    """Yields the evictions for each pod whose annotation names the place that it waits for.

    The annotation is written first, so that a planner that is restarted goes on with the same
    preemption, and evicts no pod for nothing.
    """
    for preemption in preemptions:
        hold = read_note(preemption.pod.progress).progress.preempting
        if hold is not None and (hold.node, hold.gpus) == (preemption.node, preemption.gpus):
            for victim in preemption.victims:
                yield Evict(victim, preemption.pod)


def kept_clear(
    refused: Iterable[Pod], preemptions: Collection[Preemption], snapshot: Snapshot
) -> frozenset[str]:
    """The uids of pods without a place that keep their gate while others end for one that preempts.

    That one does, or kube-scheduler might preempt for it as well; and so does a pod that it would
    bind to a slice in the moment that the slice comes free.
    """
    if not preemptions:
        return frozenset()
    nodes = {state.node.name: state.node for state in snapshot.nodes}
    freed = [
        (nodes[each.node], {size for pod in (*each.victims, *each.ending) for size in pod.seats})
        for each in preemptions
    ]
    takers = (
        pod.uid
        for pod in refused
        if any(
            not sizes.isdisjoint(pod.seats) and node_refusal(pod.constraints, node) is None
            for node, sizes in freed
        )
    )
    return frozenset((*takers, *(each.pod.uid for each in preemptions)))
