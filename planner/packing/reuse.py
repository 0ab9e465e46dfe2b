"""What is under way is finished first: nominated pods, and pods onto free slices that stand.

A pod on a free slice waits for nothing. And planning a planned cluster again changes nothing, as
the pods whose slices are being made find the same slices. From there a pod is moved only if more GB
are placed then, and not at all once its gate is gone: it may be bound at any moment.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from planner.feasibility.nodes import node_refusal
from planner.model.pods import Pod
from planner.packing.classes import PodClass
from planner.packing.fit import gpus_on, place_group, seat_on_free
from planner.packing.ledger import Seating
from planner.packing.standing import Ways, put_there, put_together, seat_there
from planner.packing.state import State

_MANY: Final = 1000
"""Of more units those that took free slices stay there: to look for something better takes long."""


def keep_nominated(state: State, numbers: Sequence[int], ways: Ways | None) -> None:
    """Places units of which pods are nominated, those where they are.

    The scheduler counts on that, and it may have preempted somebody for it.
    """
    turn = [number for number in numbers if is_nominated(state, number)]
    if turn:
        _stay_together(state, turn, ways)
        state.fix(number for number in turn if state.placed[number])


def _stay_together(state: State, turn: Sequence[int], ways: Ways | None) -> None:
    mark = state.checkpoint()
    left = _stay_in_turn(state, turn, ways)
    if not left or not state.relations.active:
        return
    # One that wants to be near others may have to come before them.
    state.rollback(mark)
    first = [*left, *(number for number in turn if number not in set(left))]
    if len(_stay_in_turn(state, first, ways)) > len(left):
        state.rollback(mark)
        _stay_in_turn(state, turn, ways)


def _stay_in_turn(state: State, numbers: Sequence[int], ways: Ways | None) -> list[int]:
    """Places nominated units as long as one comes in; returns the others."""
    left = list(numbers)
    while left:
        out = [number for number in left if not _stay(state, number, ways)]
        if len(out) == len(left) or not state.relations.active:
            return out
        left = out  # one that wants to be near another comes in once that one is there
    return left


def is_nominated(state: State, number: int) -> bool:
    """Whether one of the unit's pods is nominated, and they are not placed yet."""
    pods = state.members(number) if number in state.further else state.units[number].pods
    return not state.placed[number] and any(pod.nominated for pod in pods)


def _stay(state: State, number: int, ways: Ways | None) -> bool:
    """Nominated pods stay where they are. Of their group others take the free slices that `ways`
    has for them, or else any.
    """
    nodes = {id(pod): node for pod, node in (ways or {}).get(number, ())}

    def there(pod: Pod) -> Seating | None:
        if pod.nominated:
            return _seat_nominated(state, pod)
        node = nodes.get(id(pod))
        return None if node is None else seat_there(state, pod, node)

    def anywhere(pod: Pod) -> Seating | None:
        return there(pod) or (None if pod.nominated else seat_on_free(state, pod))

    members = state.members(number)
    nominated_first = sorted(members, key=lambda pod: not pod.nominated)
    return state.may_go(number) and (
        place_group(state, number, members, there)
        or place_group(state, number, nominated_first, anywhere)
    )


def _seat_nominated(state: State, pod: Pod) -> Seating | None:
    node, pods = state.reach.by_name.get(pod.nominated), state.class_of(pod)
    if node is None or node_refusal(pod.constraints, node.state.node) is not None:
        return None
    if min(pods.seats) < 1 or not pods.fits(node):
        return None
    gpus = gpus_on(node, pods, carve=False) or gpus_on(node, pods, carve=True)
    return None if gpus is None else state.book(pod, pods, node, gpus)


def reuse_free_slices(state: State, numbers: Sequence[int], ways: Ways | None) -> None:
    """Places units on free slices, as far as there are any: as `ways` says, if it does."""
    waiting = [n for n in numbers if not state.placed[n]]
    if ways is not None:
        for number in waiting:
            put_there(state, number, ways)
    else:
        _match(state, sorted(waiting, key=lambda number: _choices(state, number)))
    units, many = state.units, len(state.units) > _MANY
    state.fix(
        n for n in waiting if state.placed[n] and (many or not any(p.gated for p in units[n].pods))
    )


def _choices(state: State, number: int) -> tuple[int, int]:
    """Sort key: units that the fewest nodes may hold choose first, then those of several slices."""
    pods = state.units[number].pods
    nodes = min([len(state.candidates(state.class_of(pod)).orders) for pod in pods])
    return nodes, -sum([len(pod.seats) for pod in pods])


def _match(state: State, numbers: Sequence[int]) -> None:
    failed: set[PodClass] = set()
    for number in numbers:
        pods, alone = state.class_of(state.units[number].pods[0]), state.is_alone(number)
        if not (alone and pods in failed) and not _place_on_free(state, number) and alone:
            failed.add(pods)


def _place_on_free(state: State, number: int) -> bool:
    """Places a unit on free slices alone, if all its pods find some."""
    return put_together(state, number, partial(seat_on_free, state))
