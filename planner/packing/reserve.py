"""Reservations: the unit that waits longest is kept what it needs where it will fit soonest.

EASY backfilling: the unit's slices, CPU and memory are booked there as if it stood there already,
so what comes free for it goes to nobody else, and whoever does not need that goes on. Where that is
is found again in each plan: the place that lacks least. Who had a reservation is in the cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from planner.model.plan import Reservation
from planner.model.pods import Pod
from planner.model.preemption import Preemption
from planner.model.snapshot import Snapshot
from planner.packing.books import GpuBook, NodeBook
from planner.packing.classes import PodClass
from planner.packing.fit import place
from planner.packing.ledger import Part, Seating
from planner.packing.order import RESERVES
from planner.packing.reuse import keep_nominated
from planner.packing.standing import Ways, put_there
from planner.packing.state import State

_Choice = tuple[NodeBook, tuple[GpuBook, ...]]


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept for each pod of a unit: for a reservation since then, or for a preemption.

    A preemption keeps only a `part`: the rest comes free with the pods that end for it.
    """

    number: int
    seatings: tuple[Seating, ...]
    since: datetime | None
    preemption: Preemption | None = None
    part: Part | None = None

    def let_go(self, state: State) -> None:
        """Gives what is kept back."""
        if self.part is not None:
            state.keep(self.part, -1)
            return
        for seating in self.seatings:
            state.hold(seating, -1)

    def reservations(self, state: State) -> list[Reservation]:
        """As the plan tells it."""
        unit, told = state.units[self.number], self.preemption
        ends = (*told.victims, *told.ending) if told is not None else ()
        after = tuple(sorted(pod.key for pod in ends))
        return [
            Reservation(
                s.pod, s.node.name, tuple(gpu.uuid for gpu in s.gpus), unit.key, self.since, after
            )
            for s in self.seatings
        ]


def serve_longest_waiting(
    state: State, numbers: Sequence[int], snapshot: Snapshot, ways: Ways
) -> Held | None:
    """Places the units of a rank that have waited long, the oldest first; the first that does not
    fit gets a reservation.

    A reservation lasts for `RESERVES` from its own start, and a unit has one. The unit whose
    reservation runs comes first of all.
    """
    if not numbers or not state.units[numbers[0]].aged or snapshot.now is None:
        return None
    return _Queue(state, numbers, snapshot.now, snapshot.reserving, ways).serve()


class _Queue:
    def __init__(
        self,
        state: State,
        numbers: Sequence[int],
        now: datetime,
        began: Mapping[str, datetime],
        ways: Ways,
    ) -> None:
        self._state = state
        self._numbers = numbers
        self._now = now
        self._ways = ways
        keys = ((number, state.units[number].key) for number in numbers) if began else ()
        self._began = {number: began[key] for number, key in keys if key in began}
        self._hopeless: set[PodClass] = set()

    def serve(self) -> Held | None:
        state, numbers = self._state, self._numbers
        keep_nominated(state, numbers, self._ways)
        held: Held | None = None
        for number in self._running():
            if not self._place(number):
                held = held or self._reserve(number, self._began[number])
        for number in numbers:
            if not self._place(number) and held is None and number not in self._began:
                held = self._reserve(number, self._now)
                if held is not None:
                    # What was chosen depends on where these are.
                    state.fix(n for n in numbers if n < number and state.placed[n])
        if state.placed[numbers[0]]:
            state.fix(numbers[:1])
        return held

    def _place(self, number: int) -> bool:
        """Places a unit on free slices that are for it, or where it fits best."""
        if not self._state.placed[number]:
            put_there(self._state, number, self._ways)
        return place(self._state, number)

    def _running(self) -> list[int]:
        """Units whose reservation has begun and not ended."""
        return [n for n, since in self._began.items() if self._now - since < RESERVES]

    def _reserve(self, number: int, since: datetime) -> Held | None:
        """Books what the unit needs, for the rest of the plan; None where it could never fit."""
        state, unit = self._state, self._state.units[number]
        if not state.may_go(number):
            return None
        held: list[Seating] = []
        for pod in unit.pods:
            seating = self._seating(pod)
            if seating is None:
                for each in held:
                    state.hold(each, -1)
                return None
            state.hold(seating)
            held.append(seating)
        return Held(number, tuple(held), since)

    def _seating(self, pod: Pod) -> Seating | None:
        state = self._state
        pods = state.class_of(pod)
        if pods in self._hopeless:
            return None
        choice = _soonest(state, pods)
        if choice is None:
            self._hopeless.add(pods)
            return None
        return Seating(pod, pods, *choice)


def _soonest(state: State, pods: PodClass) -> _Choice | None:
    """The node and GPUs that lack least of what the class needs, of those that could ever hold it.

    Of those that lack nothing, where the class fits most tightly. Free slices count as room: where
    they stand is chance, and to follow them would reserve other GPUs each time.
    """
    best: tuple[float, bool, int, int] | None = None
    choice: _Choice | None = None
    candidates = state.candidates(pods)
    if pods.largest > candidates.largest:
        return None
    for node in candidates.nodes:
        fits = pods.fits(node)
        found = _least_lacking(pods, node) if fits or _could_hold(pods, node) else None
        if found is None:
            continue
        lacks, gpus = found
        lacks = lacks if fits else max(lacks, _lacking(pods, node))
        rest = 0 if lacks else sum(gpu.room for gpu in dict.fromkeys(gpus))
        if best is None or (lacks, not fits, rest, node.order) < best:
            best, choice = (lacks, not fits, rest, node.order), (node, gpus)
    return choice


def _could_hold(pods: PodClass, node: NodeBook) -> bool:
    """Whether it has what the class needs once all others are gone; a pod that waits for anything
    else, a port or a neighbour, does not wait for GPUs."""
    has, wants = node.state.node.allocatable, pods.pod.requests
    extended = dict(has.extended)
    return (
        has.cpu_milli >= pods.cpu
        and has.memory >= pods.memory
        and has.ephemeral >= wants.ephemeral
        and all(extended.get(name, 0) >= amount for name, amount in wants.extended)
        and not any(each.refuses(pods.pod, node) for each in pods.others if not each.reservable)
    )


def _least_lacking(pods: PodClass, node: NodeBook) -> tuple[float, tuple[GpuBook, ...]] | None:
    """By seat, GPUs that are large enough, the tightest of those with room; several slices may
    share one. And the part of its memory, or of its slices, that is not free yet."""
    gb = {gpu: gpu.room for gpu in node.gpus}
    slots = {gpu: gpu.limit - gpu.count for gpu in node.gpus}
    promised = {gpu: gpu.held for gpu in node.gpus if pods.may_share(gpu)}
    chosen: dict[int, GpuBook] = {}
    for seat in pods.seating_order:
        size = pods.seats[seat]
        able = [
            gpu
            for gpu, (held_gb, held_slices) in promised.items()
            if held_gb + size <= gpu.capacity and held_slices < gpu.limit
        ]
        if not able:
            return None
        gpu = min(able, key=lambda g: (max(0, size - gb[g]), slots[g] < 1, gb[g], g.order))
        gb[gpu] -= size
        slots[gpu] -= 1
        promised[gpu] = promised[gpu][0] + size, promised[gpu][1] + 1
        chosen[seat] = gpu
    gpus = tuple(chosen[seat] for seat in range(len(pods.seats)))
    lacking_gb = sum(max(0, -gb[gpu]) for gpu in {*gpus}) / pods.gb
    lacking_slots = sum(max(0, -slots[gpu]) for gpu in {*gpus}) / len(gpus)
    return max(lacking_gb, lacking_slots), gpus


def _lacking(pods: PodClass, node: NodeBook) -> float:
    """The part of its CPU or memory that is not free yet, the larger one."""
    cpu = max(0, pods.cpu - node.cpu) / pods.cpu if pods.cpu > 0 else 0.0
    memory = max(0, pods.memory - node.memory) / pods.memory if pods.memory > 0 else 0.0
    return max(cpu, memory)
