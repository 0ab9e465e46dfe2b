"""Filling nodes again: the set of waiting pods that uses their GPUs' memory best.

For one GPU that is a knapsack over whole gb, solved exactly: the most gb, and of all ways to reach
them the one that takes the least CPU, which is what nodes with GPUs run out of first. Most fillings
turn out to be no better than what is there, so they are worked out on sketches of the nodes, and
nothing is booked for them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from random import Random
from typing import Final

from planner.packing.backlog import Backlog, Entry
from planner.packing.books import GpuBook, NodeBook
from planner.packing.budget import Budget
from planner.packing.classes import PodClass
from planner.packing.state import State

Filling = dict[int, GpuBook]
"""Units by number, and the GPUs for them."""

_DEAL: Final = 5  # what it costs to look for the waiting units of one size, in cells
_SKETCH: Final = 40  # what it costs to sketch a node, in cells


class _Room:
    """What is left of a GPU: gb, and how many slices more it may have."""

    __slots__ = ("gb", "gpu", "slots")

    def __init__(self, gpu: GpuBook) -> None:
        self.gpu = gpu
        self.gb = gpu.room
        self.slots = gpu.limit - gpu.count


class _Hand:
    """Who of one size could be seated on a node, least CPU first; `sums` add up their CPU."""

    __slots__ = ("entries", "size", "sums")

    def __init__(self, size: int, entries: list[Entry]) -> None:
        self.size = size
        self.keep(entries)

    def keep(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.sums = list(accumulate(map(_cpu, entries)))


_cpu = itemgetter(0)


class _Sketch:
    """A node as it would be without some of its units, on which others can be tried."""

    __slots__ = ("hands", "left", "node", "rooms")

    def __init__(self, state: State, node: NodeBook, without: Iterable[int]) -> None:
        self.node = node.sketch()
        rooms = {gpu.order: _Room(gpu) for gpu in node.gpus}
        for number in without:
            (seating,) = state.placed[number]
            seating.pods.take(self.node, -1)
            room = rooms[seating.gpus[0].order]
            room.gb += seating.pods.gb
            room.slots += 1
        able = [room for room in rooms.values() if room.slots > 0]
        self.rooms = sorted(able, key=lambda room: (room.gb, room.gpu.index))
        self.left = 0  # GPUs that are still to be filled
        self.hands: list[_Hand] = []

    def deal(self, backlog: Backlog, rank: int, sizes: Iterable[int]) -> None:
        """Takes the units of one rank into its hands, as many as could be seated."""
        self.left = len(self.rooms)
        self.hands = []
        gbs = [room.gb for room in self.rooms]
        for size in sizes:
            count = sum([gb // size for gb in gbs])
            if count and (entries := backlog.cheapest(rank, size, self.node, count)):
                self.hands.append(_Hand(size, entries))

    def lose(self, size: int, taken: Collection[Entry]) -> None:
        """Others took units of the size, which may have been in its hands, too."""
        for hand in self.hands:
            if hand.size == size:
                hand.keep([entry for entry in hand.entries if entry not in taken])

    def seat(self, pods: PodClass, room: _Room) -> bool:
        """Seats a unit of the class if there is room for it; whether there was."""
        node = self.node
        if room.gb < pods.gb or not room.slots or not pods.fits(node):
            return False
        pods.take(node)
        room.gb -= pods.gb
        room.slots -= 1
        return True


_Turn = tuple[_Sketch, _Room]


def refill(
    state: State,
    backlog: Backlog,
    nodes: Sequence[NodeBook],
    moved: Sequence[Sequence[int]],
    budget: Budget,
    dice: Random | None = None,
) -> Filling:
    """How waiting units would be seated on the nodes, if those of `moved`, by node, were not there.

    `backlog` has those as well. One GPU is filled after the other, the tightest of a node first,
    rank by rank. Each may use its share of its node's CPU, and what it leaves goes to the next.
    With `dice` the GPUs take turns as it falls, and each may use all the CPU as often as not.
    """
    sketches = [_Sketch(state, node, units) for node, units in zip(nodes, moved, strict=True)]
    turns = [(sketch, room) for sketch in sketches for room in sketch.rooms]
    even = True
    if dice is not None:
        dice.shuffle(turns)
        even = dice.random() < 0.5
    filling: Filling = {}
    budget.spend(_SKETCH * len(sketches))
    for rank in backlog.ranks():
        if budget.is_spent:
            break
        filling.update(_fill(backlog, rank, turns, sketches, budget, even=even))
    for number in (number for units in moved for number in units if number not in filling):
        filling.update(_seated_somewhere(state, backlog, turns, number))
    return filling


def _fill(
    backlog: Backlog,
    rank: int,
    turns: Iterable[_Turn],
    sketches: Sequence[_Sketch],
    budget: Budget,
    *,
    even: bool,
) -> Iterator[tuple[int, GpuBook]]:
    """Seats units of one rank, GPU by GPU."""
    sizes = backlog.sizes(rank)
    budget.spend(_DEAL * len(sizes) * len(sketches))
    for sketch in sketches:
        sketch.deal(backlog, rank, sizes)
    for sketch, room in turns:
        cpu = sketch.node.cpu // sketch.left if even else sketch.node.cpu
        sketch.left -= 1
        for hand, count in _best_fill(budget, sketch.hands, room.gb, cpu):
            chosen = hand.entries[:count]
            hand.keep(hand.entries[count:])
            for other in sketches:
                if other is not sketch:
                    other.lose(hand.size, chosen)
            for _, number in chosen:  # for their gb and CPU; there is more that may not suffice
                if sketch.seat(backlog.movable[number], room):
                    yield number, room.gpu


def _seated_somewhere(
    state: State, backlog: Backlog, turns: Iterable[_Turn], number: int
) -> Filling:
    """A unit that was there before and is not yet again."""
    pods = backlog.movable[number]
    orders = state.candidates(pods).orders
    for sketch, room in turns:
        if sketch.node.order in orders and sketch.seat(pods, room):
            return {number: room.gpu}
    return {}


_Way = tuple[int, _Hand | None, int, "_Way | None"]
"""How an amount of gb is reached: its CPU; so many of a hand, added to the way before."""


def _best_fill(
    budget: Budget, hands: Sequence[_Hand], room: int, cpu: int
) -> Iterator[tuple[_Hand, int]]:
    """How many of each hand use the most of `room` gb within `cpu`, with the least CPU for that."""
    best: dict[int, _Way] = {0: (0, None, 0, None)}
    for hand in hands:
        size, sums = hand.size, hand.sums
        if size > room or not sums:
            continue
        budget.spend(room)
        for before, way in sorted(best.items()):
            if before + size > room:
                break
            gb, cpu_before = before, way[0]
            for cpu_more in sums:
                gb += size
                needed = cpu_before + cpu_more
                if gb > room or needed > cpu:
                    break
                known = best.get(gb)
                if known is None or needed < known[0]:
                    best[gb] = (needed, hand, (gb - before) // size, way)
    found: _Way | None = best[max(best)]
    while found is not None and found[1] is not None:
        yield found[1], found[2]
        found = found[3]
