"""Pods where an earlier plan wanted them: what it began is finished, not begun anew elsewhere.

The last plan's placements say where, as long as somebody remembers them, and nominations, which are
in the cluster. Without them a plan that is being carried out would be made otherwise each time, and
slices carved for one arrangement after another.
"""

from collections import Counter
from collections.abc import Iterable

from planner.feasibility.nodes import node_refusal
from planner.model import Placement, Pod
from planner.packing.books import GpuBook, NodeBook, have_room
from planner.packing.draft import Draft
from planner.packing.greedy import gpus_on
from planner.packing.ledger import Ledger, Seating
from planner.packing.shapes import Shape


def stay(draft: Draft, numbers: Iterable[int]) -> list[int]:
    """Seats units, of which nothing is seated, where their pods were planned or nominated.

    The others are returned, and those of which further pods wait.
    A pod that wants to be near another comes in once that one is there.
    """
    numbers = list(numbers)
    if not draft.ledger.homes:
        return numbers
    turn = [number for number in numbers if _has_home(draft, number)]
    while came := [number for number in turn if _stay(draft, number)]:
        there = set(came)
        turn = [n for n in turn if n not in there and draft.may_come_to_fit(n)]
    return [number for number in numbers if draft.is_lacking(number)]


def _has_home(draft: Draft, number: int) -> bool:
    """Whether enough of the unit's pods were planned or nominated somewhere."""
    unit, planned = draft.units[number], draft.ledger.planned
    homes = sum(1 for pod in unit.pods if pod.nominated or pod.uid in planned)
    return homes >= unit.needed and homes > 0


def _stay(draft: Draft, number: int) -> bool:
    """Seats as many of the unit's pods as have their place still, at least `needed`; or none."""
    unit, ledger = draft.units[number], draft.ledger
    seated = [s for s in (_seat_pod(ledger, pod) for pod in unit.pods) if s is not None]
    if not seated or len(seated) < unit.needed:
        for each in seated:
            ledger.unseat(each)
        return False
    draft.note(number, seated)
    draft.fixed.add(number)
    return True


def _seat_pod(ledger: Ledger, pod: Pod) -> Seating | None:
    """The scheduler's nomination counts more than a plan: it has preempted somebody for that.

    What was planned counts while its slices stand. Where they do not, somebody has taken them, or
    the agent could not make them.
    """
    before = ledger.planned.get(pod.uid)
    if before is not None and (pod.gated or not pod.nominated):
        seating = _seat_on(ledger, pod, before.node, before, carve=False)
        if seating is not None:
            return seating
    return _seat_on(ledger, pod, pod.nominated, before, carve=True) if pod.nominated else None


def _seat_on(
    ledger: Ledger, pod: Pod, name: str, before: Placement | None, *, carve: bool
) -> Seating | None:
    node, shape = ledger.node(name), ledger.shape(pod)
    if node is None or node_refusal(pod.constraints, node.state.node) is not None:
        return None
    if not shape.fits(node):
        return None
    gpus = _same(node, shape, before) or gpus_on(node, shape, carve=False)
    if gpus is None and carve:
        gpus = gpus_on(node, shape, carve=True)
    return None if gpus is None else ledger.seat(pod, shape, node, gpus)


def _same(node: NodeBook, shape: Shape, before: Placement | None) -> tuple[GpuBook, ...] | None:
    """The GPUs that were planned, if the slices stand there."""
    if before is None or before.node != node.name or len(before.gpus) != len(shape.seats):
        return None
    by_uuid = {gpu.uuid: gpu for gpu in node.gpus}
    if not by_uuid.keys() >= set(before.gpus):
        return None
    for (uuid, size), count in Counter(zip(before.gpus, shape.seats, strict=True)).items():
        if by_uuid[uuid].free.get(size, 0) < count:
            return None
    gpus = tuple(by_uuid[uuid] for uuid in before.gpus)
    return gpus if have_room(shape.seats, gpus) else None
