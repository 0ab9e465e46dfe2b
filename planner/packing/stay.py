"""Pods where an earlier plan wanted them: what it began is finished, not begun anew elsewhere.

A nomination is how that is remembered. Without it, pods that depend on one another (affinity,
spread) would be arranged otherwise each time, and slices carved for one arrangement after another.
"""

from collections.abc import Iterable

from planner.feasibility import node_refusal
from planner.model import Pod
from planner.packing.draft import Draft
from planner.packing.greedy import gpus_on
from planner.packing.ledger import Ledger, Seating


def stay(draft: Draft, numbers: Iterable[int]) -> list[int]:
    """Seats units on the nodes that their pods are nominated to; the others are returned.

    A pod that wants to be near another comes in once that one is there.
    """
    left = list(numbers)
    units = draft.units
    nominated = [n for n in left if units[n].pods[0].nominated]  # of most units nobody is
    nominated = [n for n in nominated if all(pod.nominated for pod in units[n].pods)]
    while came := [number for number in nominated if _seat(draft, number)]:
        draft.staying.update(came)
        left = [number for number in left if number not in draft.staying]
        nominated = [n for n in nominated if n not in draft.staying and draft.may_come_to_fit(n)]
    return left


def _seat(draft: Draft, number: int) -> bool:
    """All pods of the unit on their nodes, or none."""
    unit, ledger = draft.units[number], draft.ledger
    if len(unit.pods) < unit.needed:
        return False
    seated: list[Seating] = []
    for pod in unit.pods:
        seating = _seat_pod(ledger, pod)
        if seating is None:
            for each in seated:
                ledger.unseat(each)
            return False
        seated.append(seating)
    draft.note(number, seated)
    return True


def _seat_pod(ledger: Ledger, pod: Pod) -> Seating | None:
    node, shape = ledger.node(pod.nominated), ledger.shape(pod)
    if node is None or node_refusal(pod.constraints, node.state.node) is not None:
        return None
    if not shape.fits(node):
        return None
    gpus = gpus_on(node, shape, carve=False) or gpus_on(node, shape, carve=True)
    return None if gpus is None else ledger.seat(pod, shape, node, gpus)
