"""Preemption: a pod that fits nowhere takes the place of pods of lower priority, of whatever size.

Evicted are the fewest GB of the highest priority among them, then of the next one, and so on; of
equal choices the one with the fewest pods, then that with the youngest. What the pod needs is
kept for it there until they have ended. Pods that end anyway count as gone, so nobody is evicted
for room that comes free by itself, and the choice made again once some have ended is the rest of
the first one.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, product
from typing import Final

from mpslice.gpus import GpuUuid
from planner.feasibility.selectors import all_hold
from planner.model.pods import Pod
from planner.model.preemption import Holder, Preemptible, Preemption
from planner.packing.books import GpuBook, NodeBook
from planner.packing.budget import Budget
from planner.packing.classes import PodClass
from planner.packing.ledger import Seating
from planner.packing.reserve import Held
from planner.packing.room import Room, Thing, gb_wanted
from planner.packing.state import State
from planner.packing.victims import Offer, cheapest

AT_ONCE: Final = 10
"""Pods that may wait for others to end at one time."""

_WORK: Final = 100_000
"""Partial choices that a plan may look at: a fifth of a second."""

_SITES: Final = 100
"""GPUs on which a better choice is looked for, for one pod: those where it may cost least."""

_LOOK: Final = 50  # of _WORK: what it costs to look at the GPUs of a node at all

_SEATINGS: Final = 4_096
"""Ways to seat the slices of one pod on GPUs that are looked at, and on each node at least 8."""

_ALWAYS: Final = -(1 << 40)
"""In the place of a priority: lower than any, for pods that end without being evicted."""

_GB_BITS: Final = 24  # of a cost: the GB of one priority
_POD_BITS: Final = 64  # and below them the number of pods, and their ages
_AGE_BITS: Final = 48


@dataclass(frozen=True, slots=True)
class _Choice:
    """A place for a pod, and who has to end for it."""

    cost: int
    node: NodeBook
    gpus: tuple[GpuBook, ...]
    victims: tuple[Holder, ...]
    ending: tuple[Holder, ...]


class Preemptor:
    """Chooses for the pods of one plan, the highest rank first."""

    def __init__(self, state: State, preemptible: Preemptible) -> None:
        self._state = state
        self._every = preemptible
        self._allowed = dict(preemptible.limits)
        self._chosen: set[str] = set()  # keys of the victims of this plan
        self._held: set[int] = set()
        self._promised: Counter[Thing] = Counter()
        self._hopeless: set[tuple[PodClass, int]] = set()
        self._work = Budget(_WORK)
        there = {
            name: {_ALWAYS if holder.ending else holder.pod.priority for holder in held}
            for name, held in preemptible.holders.items()
        }
        priorities = sorted(set().union(*there.values()) - {_ALWAYS})
        self._priorities = priorities
        self._rank = {priority: rank for rank, priority in enumerate(priorities)}
        self._gb: dict[str, dict[GpuUuid, list[int]]] = {}  # by node, as _gb_of has it
        self._lowest = {name: min(found) for name, found in there.items()}

    def begun(self, numbers: Iterable[int]) -> list[int]:
        """Units of a rank that have begun to preempt."""
        pods = ((number, self._pod(number)) for number in numbers)
        return [n for n, pod in pods if pod is not None and pod.uid in self._every.begun]

    def begin(self, numbers: Iterable[int], reserved: Held | None) -> list[Held]:
        """Units of a rank that could not be placed, the first of them first; `reserved` is the
        reservation of one, which preempting takes the place of.
        """
        found = []
        for number in numbers:
            pod = self._pod(number)
            if pod is None or self._state.placed[number] or number in self._held:
                continue
            if len(self._held) >= AT_ONCE or self._work.is_spent:
                break
            if pod.preempts and pod.uid in self._every.able:
                mine = reserved if reserved is not None and reserved.number == number else None
                held = self._begin(number, pod, mine)
                if held is not None:
                    found.append(held)
        return found

    def _pod(self, number: int) -> Pod | None:
        """The pod of a unit of one; no pod preempts of a group that has yet to run."""
        unit = self._state.units[number]
        is_alone = len(unit.pods) == 1 and unit.needed <= 1 and number not in self._state.after
        return unit.pods[0] if is_alone else None

    def resume(self, number: int) -> Held | None:
        """A unit that has begun to preempt: placed where it waits if there is room by now, else
        what it needs is kept there, as long as pods there may still make room.
        """
        state, pod = self._state, self._state.units[number].pods[0]
        if state.placed[number]:
            return None
        hold = self._every.begun[pod.uid]
        node, pods = state.reach.by_name.get(hold.node), state.class_of(pod)
        if node is None or node.order not in state.candidates(pods).orders:
            return None
        by_uuid = {gpu.uuid: gpu for gpu in node.gpus}
        gpus = tuple([by_uuid[uuid] for uuid in hold.gpus if uuid in by_uuid])
        if len(gpus) < len(pods.seats) or not _could_hold(pods, gpus):
            return None
        if pods.fits(node) and _have_room(pods, gpus):
            state.put(number, (state.book(pod, pods, node, gpus),))
            state.fixed.add(number)
            return None
        choice = self._choose_on(node, gpus, pods, pod.priority)
        return None if choice is None else self._hold(number, pod, choice)

    def _begin(self, number: int, pod: Pod, reserved: Held | None) -> Held | None:
        state, pods = self._state, self._state.class_of(pod)
        if (pods, pod.priority) in self._hopeless:
            return None
        for each in reserved.seatings if reserved is not None else ():
            state.hold(each, -1)
        choice = self._choose(pods, pod.priority)
        if choice is not None and (choice.victims or choice.ending):
            return self._hold(number, pod, choice)
        for each in reserved.seatings if reserved is not None else ():
            state.hold(each)
        self._hopeless.add((pods, pod.priority))
        return None

    def _hold(self, number: int, pod: Pod, choice: _Choice) -> Held:
        self._held.add(number)
        self._gb.pop(choice.node.name, None)
        for victim in choice.victims:
            self._chosen.add(victim.pod.key)
            for limit in victim.limits:
                self._allowed[limit] -= 1
        state, node, pods = self._state, choice.node, self._state.class_of(pod)
        room = Room(pods, node, choice.gpus, self._promised)
        part = room.promise(self._holders(node, pod, pod.priority)[0])
        state.keep(part)
        uuids = tuple(gpu.uuid for gpu in choice.gpus)
        told = Preemption(pod, node.name, uuids, _pods(choice.victims), _pods(choice.ending))
        return Held(number, (Seating(pod, pods, node, choice.gpus),), None, told, part)

    def _choose(self, pods: PodClass, priority: int) -> _Choice | None:
        """The best choice on all nodes. Looked at first is where it may cost least, and nowhere
        where it cannot cost less than what was found.
        """
        best: _Choice | None = None
        candidates = self._state.candidates(pods)
        if pods.largest > candidates.largest:
            return None
        most = max(8, _SEATINGS // max(1, len(candidates.nodes)))
        sites = [
            (least, node.order, number, node, gpus)
            for node in candidates.nodes
            if self._lowest.get(node.name, priority) < priority
            for number, (least, gpus) in enumerate(self._sites(pods, node, priority, most))
        ]
        sites.sort(key=lambda site: site[:3])
        looks = _SITES
        for least, _, _, node, gpus in sites:
            if self._work.is_spent or (best is not None and (looks < 1 or least >= best.cost)):
                break
            best = self._choose_on(node, gpus, pods, priority, best) or best
            looks -= best is not None
        return best

    def _sites(
        self, pods: PodClass, node: NodeBook, priority: int, most: int
    ) -> Iterator[tuple[int, tuple[GpuBook, ...]]]:
        """Up to `most` ways to seat the pod, each with a cost that no choice there is below."""
        known = self._gb.get(node.name)
        if known is None:
            known = self._gb[node.name] = self._gb_of(node)
        ranks = bisect_left(self._priorities, priority)
        every = product(node.gpus, repeat=len(pods.seats))
        most = max(most, len(node.gpus))
        for gpus in islice((gpus for gpus in every if _could_hold(pods, gpus)), most):
            wanted = gb_wanted(pods, gpus)
            costs = [_least_cost(gb - g.room, known[g.uuid], ranks) for g, gb in wanted.items()]
            if None not in costs:
                yield sum(cost for cost in costs if cost), gpus

    def _gb_of(self, node: NodeBook) -> dict[GpuUuid, list[int]]:
        """By GPU, the GB that come free without an eviction, and those of each priority."""
        found = {gpu.uuid: [0] * (len(self._priorities) + 1) for gpu in node.gpus}
        for holder in self._every.holders.get(node.name, ()):
            goes = holder.ending or holder.pod.key in self._chosen
            place = 0 if goes else 1 + self._rank[holder.pod.priority]
            for uuid, size in holder.slices:
                if uuid in found:
                    found[uuid][place] += size
        return found

    def _choose_on(
        self,
        node: NodeBook,
        gpus: tuple[GpuBook, ...],
        pods: PodClass,
        priority: int,
        best: _Choice | None = None,
    ) -> _Choice | None:
        """The best choice for these GPUs, by seat, if it is better than `best`."""
        self._work.spend(_LOOK)
        if any(each.refuses(pods.pod, node) for each in pods.others if not each.reservable):
            return None
        ending, able = self._holders(node, pods.pod, priority)
        if any(_is_wanted_near(pods.pod, holder.pod) for holder in ending):
            return None
        room = Room(pods, node, gpus, self._promised)
        answer = self._least(room, room.lacking(ending), able, best.cost if best else None)
        if answer is None:
            return None
        lower = [h for h in ending if h.pod.priority < priority and _is_on(h, gpus)]
        return _Choice(answer[0], node, gpus, answer[1], tuple(lower))

    def _holders(
        self, node: NodeBook, pod: Pod, priority: int
    ) -> tuple[list[Holder], list[Holder]]:
        """Those on the node that end, and those that may be evicted for the pod."""
        ending, able = [], []
        for holder in self._every.holders.get(node.name, ()):
            if holder.ending or holder.pod.key in self._chosen:
                ending.append(holder)
            elif holder.pod.priority < priority and not _is_wanted_near(pod, holder.pod):
                able.append(holder)
        return ending, able

    def _least(
        self, room: Room, lacking: tuple[int, ...], able: Sequence[Holder], below: int | None
    ) -> tuple[int, tuple[Holder, ...]] | None:
        """The cheapest victims and their cost, if that is less than `below`."""
        giving = [
            (holder, gives)
            for holder in room.concerned(able, lacking)
            if any(gives := room.gives(holder, lacking))
        ]
        asked = Counter(limit for holder, _ in giving for limit in holder.limits)
        tight = [limit for limit, count in asked.items() if count > self._allowed[limit]]
        places = {limit: index for index, limit in enumerate(tight)}
        offers = [
            Offer(
                gives,
                self._cost(holder.pod),
                tuple(places[limit] for limit in holder.limits if limit in places),
            )
            for holder, gives in giving
        ]
        allowed = tuple(max(0, self._allowed[limit]) for limit in tight)
        answer = cheapest(lacking, offers, allowed, self._work, below)
        if answer is None:
            return None
        return answer[0], tuple(giving[index][0] for index in answer[1])

    def _cost(self, pod: Pod) -> int:
        """Costs add up, and their sums compare as choices do."""
        gb = sum(pod.seats) << (_POD_BITS + _GB_BITS * self._rank[pod.priority])
        return gb + (1 << _AGE_BITS) + _age(pod)


def _least_cost(lacking: int, gb: Sequence[int], ranks: int) -> int | None:
    """A cost that no choice is below: the lowest priorities give all that they have. `gb` is what
    comes free by itself, then what pods have by rank, of which the first `ranks` may be evicted.
    """
    lacking -= gb[0]
    if lacking <= 0:
        return 0
    for rank in range(ranks):
        if gb[rank + 1] >= lacking:
            return lacking << (_POD_BITS + _GB_BITS * rank)
        lacking -= gb[rank + 1]
    return None


def _could_hold(pods: PodClass, gpus: Sequence[GpuBook]) -> bool:
    """Whether the slices would have room on just these GPUs if nothing else stood there, and none
    has another pod of a group that is to be spread."""
    wanted = gb_wanted(pods, gpus)
    return all(gb <= gpu.capacity and pods.may_share(gpu) for gpu, gb in wanted.items())


def _have_room(pods: PodClass, gpus: Sequence[GpuBook]) -> bool:
    """Whether the slices have room on just these GPUs."""
    slices = Counter(gpus)
    return all(
        gb <= gpu.room and gpu.count + slices[gpu] <= gpu.limit
        for gpu, gb in gb_wanted(pods, gpus).items()
    )


def _is_wanted_near(pod: Pod, other: Pod) -> bool:
    """Whether the pod may need the other to stay, for it wants to be near such pods."""
    terms = pod.relations.affinity
    return bool(terms) and any(
        term.selector is not None and all_hold(term.selector, other.labels) for term in terms
    )


def _is_on(holder: Holder, gpus: Sequence[GpuBook]) -> bool:
    uuids = {gpu.uuid for gpu in gpus}
    return not holder.pod.finished and any(uuid in uuids for uuid, _ in holder.slices)


def _pods(holders: Iterable[Holder]) -> tuple[Pod, ...]:
    return tuple(holder.pod for holder in sorted(holders, key=lambda holder: holder.pod.key))


def _age(pod: Pod) -> int:
    """Seconds by which the pod is older than any will ever be: less for a younger pod."""
    if not pod.created:
        return 0
    return (1 << 38) - int(datetime.fromisoformat(pod.created).timestamp())
