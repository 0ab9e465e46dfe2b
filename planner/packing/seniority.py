"""Of two units of a rank that ask for the same slices and of which either would fit, the older one
is placed: a search looks at GB only, and so does best fit where the order of pods is changed.
"""

from bisect import insort
from heapq import heapify, heappop, heappush
from typing import Final

from mpslice.slices import SliceSize
from planner.packing.classes import PodClass
from planner.packing.state import State

_WORK: Final = 400_000
"""Pairs that are compared at most."""


def older_first(state: State) -> None:
    """Exchanges younger units that are placed for older ones that are not, until none is left."""
    out: dict[tuple[int, tuple[SliceSize, ...]], list[int]] = {}
    for number, unit in enumerate(state.units):
        if not state.placed[number] and state.is_alone(number):
            out.setdefault((state.rank[number], unit.pods[0].seats), []).append(number)
    if not out:
        return
    placed: dict[tuple[int, tuple[SliceSize, ...]], list[int]] = {kind: [] for kind in out}
    for number, unit in enumerate(state.units):
        kind = state.rank[number], unit.pods[0].seats
        if kind in placed and state.placed[number] and _may_leave(state, number):
            placed[kind].append(number)
    work = _WORK
    for kind, waiting in out.items():
        work = _exchange(state, waiting, placed[kind], work)


def _may_leave(state: State, number: int) -> bool:
    return state.is_alone(number) and not state.units[number].pods[0].nominated


def _exchange(state: State, waiting: list[int], placed: list[int], work: int) -> int:
    """`waiting` and `placed` ask for the same slices; both in planned order. Returns what is left
    of `work`."""
    heapify(waiting)
    hopeless: set[PodClass] = set()
    while waiting and placed and work > 0:
        older = heappop(waiting)
        if older > placed[-1]:
            break
        pod = state.units[older].pods[0]
        pods = state.class_of(pod)
        orders = state.candidates(pods).orders
        if pods in hopeless:
            continue
        hopeless.add(pods)
        for place in range(len(placed) - 1, -1, -1):
            younger = placed[place]
            if younger < older:
                break
            work -= 1
            (there,) = state.placed[younger]
            node = there.node
            spare = there.pods
            if (
                node.order not in orders
                or node.cpu + max(spare.cpu, 0) < pods.cpu
                or node.memory + max(spare.memory, 0) < pods.memory
            ):
                continue
            mark = state.checkpoint()
            state.unassign(younger)
            if pods.fits(node):
                state.put(older, (state.book(pod, pods, node, there.gpus),))
                del placed[place]
                insort(placed, older)
                heappush(waiting, younger)
                if younger in state.fixed:
                    state.fix((older,))
                hopeless.clear()
                break
            state.rollback(mark)
    return work
