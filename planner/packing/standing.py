"""Which pods take the free slices that stand: the best way, where the pods are few.

The best way places the most GB, rank by rank (of units that have waited long, the oldest). Of ways
that place as much, it is the one in which the first pod takes the first node, then the second pod,
and so on. This is a total order of all ways, and it stays the same when pods are bound. So a plan
whose slices stand is found again, pod by pod. When some of its pods are bound, what is left of it
is still the best way for the others.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mpslice.slices import SliceSize
from planner.model.pods import Pod
from planner.packing.books import NodeBook
from planner.packing.classes import PodClass
from planner.packing.fit import gpus_on
from planner.packing.ledger import Seating
from planner.packing.order import planned_order
from planner.packing.state import State

_PODS: Final = 100  # the ways of more pods are not compared
_LOOKS: Final = 4_000  # nodes that are looked at, to find where each class may go
_STEPS: Final = 4_000  # pods that are put on a node or left out, in one search
_WORK: Final = 40_000  # pods that are looked at: in each step, all of them
_RANK_BITS: Final = 40  # no rank's GB reach into those of the rank before

Ways = Mapping[int, Sequence[tuple[Pod, NodeBook]]]
"""By unit, the nodes on which its pods find free slices."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A pod that finds free slices somewhere.

    `weight` is what placing it is worth; sums of weights compare as ways do. `twin` is the place of
    the last item before it that is alike: of two that are alike, the first takes the first node.
    `group` is the unit without which it may not be placed, its own or one that has to be placed
    first; `rest` counts the items of that unit that come after it.
    """

    number: int
    pod: Pod
    pods: PodClass
    nodes: Sequence[NodeBook]
    weight: int
    twin: int | None
    group: int
    rest: int


def best_ways(state: State, numbers: Sequence[int]) -> Ways | None:
    """Where units of these that are not placed find free slices; None if that is too much work.

    `numbers` are in planned order. Nothing is booked.
    """
    found = _options(state, numbers)
    if not found:
        return None if found is None else {}
    return _Search(state, _items(state, found)).run()


_Option = tuple[int, Pod, PodClass, Sequence[NodeBook]]


def _options(state: State, numbers: Sequence[int]) -> list[_Option] | None:
    found: list[_Option] = []
    nodes: dict[PodClass, list[NodeBook]] = {}
    standing = _standing(state)
    looks = _LOOKS
    whole: set[int] = set()  # units of which all pods find free slices
    for number in numbers:
        unit, group = state.units[number], state.after.get(number)
        if state.placed[number] or not (state.may_go(number) or group in whole):
            continue
        before = len(found)
        for pod in unit.pods:
            pods = state.class_of(pod)
            if pods not in nodes:
                nodes[pods] = []
                if all(size in state.free for size in pods.seats):
                    looks -= len(state.standing_nodes)
                    if looks < 0:
                        return None
                    able = standing.get(pods.seats[0], {}).items()
                    nodes[pods] = [n for n, free in able if _may_hold(state, n, free, pods)]
            if nodes[pods]:
                found.append((number, pod, pods, nodes[pods]))
                if len(found) > _PODS:
                    return None
        if len(found) - before == len(unit.pods):
            whole.add(number)
        else:
            del found[before:]
    return found


def _standing(state: State) -> Mapping[SliceSize, Mapping[NodeBook, Mapping[SliceSize, int]]]:
    """By size the nodes on which a free slice of it stands, and all free slices there."""
    found: dict[SliceSize, dict[NodeBook, Mapping[SliceSize, int]]] = {}
    for node in state.standing_nodes:
        free: dict[SliceSize, int] = {}
        for gpu in node.gpus:
            for size, count in gpu.free.items():
                free[size] = free.get(size, 0) + count
        for size, count in free.items():
            if count > 0:
                found.setdefault(size, {})[node] = free
    return found


def _may_hold(state: State, node: NodeBook, free: Mapping[SliceSize, int], pods: PodClass) -> bool:
    if node.order not in state.candidates(pods).orders:
        return False
    if not state.relations.active and not pods.fits(node):
        return False
    return pods.single or Counter(pods.seats) <= Counter(free)


def _items(state: State, found: Sequence[_Option]) -> list[_Item]:
    items: list[_Item] = []
    shift, rank = 0, -1
    weights: list[int] = []
    for number, _, pods, _ in reversed(found):
        aged = state.units[number].aged
        if rank not in (-1, state.rank[number]):
            shift += _RANK_BITS
        rank = state.rank[number]
        weights.append((1 if aged else pods.gb) << shift)
        shift += aged  # the older outweighs all that come after it
    weights.reverse()
    before: dict[object, int] = {}
    left = Counter(number for number, *_ in found)
    turns = sorted(zip(found, weights, strict=True), key=lambda each: _turn(each[0][1]))
    for place, ((number, pod, pods, nodes), weight) in enumerate(turns):
        after = state.after.get(number)
        group = number if after is None or state.placed[after] else after
        lone = (
            group == number and number not in state.further and len(state.units[number].pods) == 1
        )
        kind = pods, state.rank[number] if lone else (group, group == number)
        twin = before.get(kind)
        before[kind] = place
        left[number] -= 1
        items.append(_Item(number, pod, pods, nodes, weight, twin, group, left[group]))
    return items


def _turn(pod: Pod) -> tuple[int, tuple[int, str, str, str]]:
    """Sort key: pods of several slices, for which fewer nodes will do, choose theirs first."""
    return -len(pod.seats), planned_order(pod)


class _Search:
    """Depth first over pods and nodes, cut off where it cannot become better any more."""

    def __init__(self, state: State, items: Sequence[_Item]) -> None:
        self._state = state
        self._items = items
        self._steps = min(_STEPS, _WORK // len(items))
        self._best = 0
        self._ways: Ways = {}
        self._chosen: list[int | None] = [None] * len(items)  # by item the index of its node
        self._there: Counter[int] = Counter()  # by unit, how many of its pods
        self._beside: Counter[int] = Counter()  # by group, how many pods that may not be without it
        self._left: dict[SliceSize, Counter[int]] = {}
        """Free slices of a size, by the order of their node."""
        for node in state.standing_nodes:
            for gpu in node.gpus:
                for size, count in gpu.free.items():
                    self._left.setdefault(size, Counter())[node.order] += count
        self._orders: list[tuple[int, ...]] = []
        self._seats: dict[SliceSize, list[tuple[int, int, int]]] = {}
        """The slices that items ask for, by size, the heaviest first: the item, the weight, and
        where in `_orders` its nodes are."""
        self._weigh()

    def _weigh(self) -> None:
        known: dict[tuple[int, ...], int] = {}
        for turn, item in enumerate(self._items):
            nodes = known.setdefault(tuple(node.order for node in item.nodes), len(known))
            left = item.weight
            for size in item.pods.seats[1:]:
                part = item.weight // item.pods.gb * size
                left -= part
                self._seats.setdefault(size, []).append((turn, part, nodes))
            self._seats.setdefault(item.pods.seats[0], []).append((turn, left, nodes))
        for seats in self._seats.values():
            seats.sort(key=lambda seat: -seat[1])
        self._orders = list(known)

    def run(self) -> Ways | None:
        """The best ways; None where not all could be compared."""
        mark = self._state.checkpoint()
        self._try(0, 0)
        self._state.rollback(mark)
        return self._ways if self._steps > 0 else None

    def _try(self, turn: int, worth: int) -> None:
        if self._steps <= 0 or worth + self._bound(turn) <= self._best:
            return
        self._steps -= 1
        if turn == len(self._items):
            self._best = worth
            found: dict[int, list[tuple[Pod, NodeBook]]] = {}
            for item, index in zip(self._items, self._chosen, strict=True):
                if index is not None:
                    found.setdefault(item.number, []).append((item.pod, item.nodes[index]))
            self._ways = found
            return
        item = self._items[turn]
        first = 0
        if item.twin is not None:
            twin = self._chosen[item.twin]
            first = len(item.nodes) if twin is None else twin
        for index in range(first, len(item.nodes)):
            seating = seat_there(self._state, item.pod, item.nodes[index])
            if seating is None:
                continue
            self._chosen[turn] = index
            self._there[item.number] += 1
            self._beside[item.group] += 1
            order = item.nodes[index].order
            for size in item.pods.seats:
                self._left[size][order] -= 1
            if self._may_suffice(item):
                self._try(turn + 1, worth + item.weight)
            for size in item.pods.seats:
                self._left[size][order] += 1
            self._there[item.number] -= 1
            self._beside[item.group] -= 1
            self._chosen[turn] = None
            self._state.unbook(seating)
        if self._may_suffice(item):
            self._try(turn + 1, worth)

    def _may_suffice(self, item: _Item) -> bool:
        """Whether the group can become complete that pods need which are there."""
        there = self._there[item.group] + item.rest
        return not self._beside[item.group] or there >= self._state.units[item.group].needed

    def _bound(self, turn: int) -> int:
        """What the items from here on are worth at most.

        As if each of their slices could be had by itself: of a size as many as stand, and for pods
        that may use the same nodes as many as stand on those.
        """
        worth = 0
        for size, seats in self._seats.items():
            left = sum(self._left[size].values())
            on_nodes: dict[int, int] = {}
            for later, weight, nodes in seats:
                if left <= 0:
                    break
                if later < turn:
                    continue
                if nodes not in on_nodes:
                    at = self._left[size]
                    on_nodes[nodes] = sum([at[order] for order in self._orders[nodes]])
                if on_nodes[nodes] > 0:
                    on_nodes[nodes] -= 1
                    left -= 1
                    worth += weight
        return worth


def seat_there(state: State, pod: Pod, node: NodeBook) -> Seating | None:
    """Books a pod on free slices of the node; None where it does not fit."""
    pods = state.class_of(pod)
    if not pods.fits(node):
        return None
    gpus = gpus_on(node, pods, carve=False)
    return None if gpus is None else state.book(pod, pods, node, gpus)


def put_there(state: State, number: int, ways: Ways) -> bool:
    """Places a unit on the free slices that `ways` has for it; whether they are still there."""
    nodes = {id(pod): node for pod, node in ways.get(number, ())}
    if not nodes:
        return False

    def choose(pod: Pod) -> Seating | None:
        node = nodes.get(id(pod))
        return None if node is None else seat_there(state, pod, node)

    return put_together(state, number, choose)


def put_together(state: State, number: int, choose: Callable[[Pod], Seating | None]) -> bool:
    """Places a unit whose pods are all booked where `choose` says; whether they could be."""
    if not state.may_go(number):
        return False
    seated: list[Seating] = []
    for pod in state.units[number].pods:
        seating = choose(pod)
        if seating is None:
            for each in seated:
                state.unbook(each)
            return False
        seated.append(seating)
    state.put(number, tuple(seated))
    return True
