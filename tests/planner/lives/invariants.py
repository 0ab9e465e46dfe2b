"""What must hold at every moment of a life, read plainly from the world and not from the plan."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mpslice.kube.outage import LINGER
from planner.decide import decide
from planner.model.plan import Cause, Placement, Refusal
from planner.model.pods import Pod
from planner.progress.machine import RENOMINATE, Phase
from planner.view import Decision
from planner.writes.actions import Inform, WriteSpec
from tests.planner.lives.life import Life

_BOUND_WITHIN = 60.0  # seconds that a pod may have a place without being bound or refused
_AT_ONCE = 1.0 + LINGER
"""Seconds until a pod is bound where nothing fails. A guard of slices that are withdrawn keeps its
nomination for LINGER, and kube-scheduler counts it against others there."""
_VISIBLE_WITHIN = 10.0
_HANGING = 45.0  # where an agent may not get round to withdrawing a slice that the pod would take
_EVICTED = 16  # at most so many pods of the smallest size make room on one GPU
_PASSED = 3  # younger equals that may be bound while a pod holds its reservation


class Judge:
    """Called whenever planner and scheduler are at rest."""

    def __init__(self) -> None:
        self._placed: dict[str, tuple[float, Placement]] = {}  # by pod uid, since when, and where
        self._hidden: dict[str, float] = {}  # by pod uid, since when it fits nowhere and is gated
        self._passed: Counter[str] = Counter()  # by uid of a holder
        self._unbound: set[str] = set()
        self._dice = random.Random(1)  # of its own, so that judging changes no life
        self._preempted: Counter[str] = Counter()  # by uid of who preempts

    def __call__(self, life: Life, decision: Decision) -> None:
        _capacity(life)
        _used(life, decision)
        _spread(life, decision)
        _backoff_holds_nothing(life, decision)
        bound = [pod for pod in life.world.pods.values() if pod.uid in self._unbound and pod.node]
        self._evictions(life)
        self._bound_in_time(life, decision, bound)
        self._visible(life, decision)
        self._order(life, decision, bound)
        self._unbound = {pod.uid for pod in life.world.pods.values() if not pod.node}
        _causes(life, decision)
        if self._dice.random() < 0.3:
            _restart_changes_nothing(life, decision)

    def _evictions(self, life: Life) -> None:
        """Only for pods of higher priority that do not fit, and groups keep their minimum."""
        world = life.world
        for pod, by in life.evictions:
            self._preempted[by.uid] += 1
            said = f"{pod.name} was evicted for {by.name}, "
            if pod.priority >= by.priority or not by.preempts:
                life.problem(said + "which may not preempt it")
            if pod.terminating or pod.finished or not pod.node:
                life.problem(said + "though it held nothing any more")
            if self._preempted[by.uid] > _EVICTED:
                life.problem(said + f"as the {self._preempted[by.uid]}th")
            mates = [p for p in world.pods.values() if pod.group and p.group == pod.group]
            running = [p for p in mates if p.node and not (p.terminating or p.finished)]
            if pod.group and len(running) < (pod.min_member or 0):
                life.problem(said + f"and {len(running)} of its group are left")
        life.evictions.clear()

    def _bound_in_time(self, life: Life, decision: Decision, bound: Sequence[Pod]) -> None:
        """The time begins anew where a pod of higher priority that preempts has got the slice, that
        of the place that the pod has or of the one that it had until then. It does not run while
        the scheduler keeps the slice for such a pod until its victims have ended.
        """
        placed = {p.pod.uid: p for p in decision.plan.placements}
        now, before = life.world.now, self._placed
        nominees = [
            replace(pod, node=pod.nominated)
            for pod in life.world.pods.values()
            if pod.nominated and not pod.node
        ]
        self._placed = {}
        for uid, place in placed.items():
            since, had = before.get(uid, (now, place))
            lost = any(_took(pod, where) for pod in (*bound, *nominees) for where in (had, place))
            self._placed[uid] = now if lost else since, place
        for uid, (since, _) in self._placed.items():
            quiet = life.kind.faults or life.kind.broken or life.kind.denied
            if now - since > (4 * _BOUND_WITHIN if quiet else _AT_ONCE):
                pod = placed[uid].pod
                life.problem(
                    f"{pod.name} has had a place for {now - since:.0f} s, on {placed[uid].node}, "
                    f"and is not bound: {decision.progress[uid]}, nominated {pod.nominated!r}, "
                    f"{pod.unschedulable!r}"
                )

    def _visible(self, life: Life, decision: Decision) -> None:
        now, hidden = life.world.now, {}
        guards = _guards(decision)
        for pod in life.world.pods.values():
            if pod.node or not pod.claims or pod.group or len(pod.gates) > 1:
                continue
            if (life.kind.denied and pod.name.endswith("d")) or pod.uid in guards:
                continue
            if pod.gated and decision.plan.preemptions:
                continue  # it may be kept off what comes free
            if not _fits_somewhere(life, pod) and (pod.gates or not pod.unschedulable):
                hidden[pod.uid] = self._hidden.get(pod.uid, now)
                within = _HANGING if life.kind.faults else _VISIBLE_WITHIN
                if now - hidden[pod.uid] > within:
                    life.problem(f"{pod.name} fits nowhere and no autoscaler can see it: {pod}")
        self._hidden = hidden

    def _order(self, life: Life, decision: Decision, bound: Sequence[Pod]) -> None:
        """A holder of a reservation is not passed over by younger equals."""
        for reservation in decision.plan.reservations:
            holder = reservation.pod
            for pod in bound:
                if pod.node == reservation.node and _is_younger_equal(pod, holder):
                    self._passed[holder.uid] += 1
                    life.seen["holder passed over"] += 1
                    if self._passed[holder.uid] > _PASSED:
                        life.problem(f"{holder.name} holds a reservation and {pod.name} passed it")


def _took(pod: Pod, place: Placement) -> bool:
    """Whether a pod that was bound may have taken a slice meant for one of lower priority."""
    shared = set(pod.seats) & set(place.pod.seats)
    return pod.node == place.node and pod.priority > place.pod.priority and bool(shared)


def _guards(decision: Decision) -> set[str]:
    """Of each size one pod for each reservation, which keeps its gate for it."""
    found: dict[tuple[str, object], str] = {}
    for refusal in decision.refused:
        pod = refusal.pod
        if refusal.own is Cause.RESERVED and pod.gated and " is kept for " in refusal.note:
            found.setdefault((refusal.note.partition(" ")[0], pod.seats), pod.uid)
    return set(found.values())


def _is_younger_equal(pod: Pod, holder: Pod) -> bool:
    same = pod.seats == holder.seats and pod.requests == holder.requests
    return same and pod.priority <= holder.priority and pod.created > holder.created


def _capacity(life: Life) -> None:
    for agent in life.world.agents.values():
        for index, gpu in enumerate(agent.gpus):
            if sum(s.size for s in gpu) > agent.capacities[index]:
                life.problem(f"{agent.name} GPU {index} holds more than it has")
        for spec in agent.spec.gpus:
            index = int(spec.uuid.rpartition("-")[2])
            if sum(size * n for size, n in spec.slices.items()) > agent.capacities[index]:
                life.problem(f"the layout of {agent.name} GPU {index} is larger than the GPU")
    if life.world.failed_admissions:
        life.problem("a pod was bound to a slice that was withdrawn")


def _used(life: Life, decision: Decision) -> None:
    for action in decision.actions:
        if isinstance(action, WriteSpec):
            agent = life.world.agents[action.layout.name]
            for index, gpu in enumerate(agent.gpus):
                used = Counter(s.size for s in gpu if s.pod)
                wanted = {
                    int(size): count
                    for spec in action.spec.gpus
                    if spec.uuid == agent.uuid(index)
                    for size, count in spec.slices.items()
                }
                if any(wanted.get(size, 0) < count for size, count in used.items()):
                    life.problem(f"a used slice of {agent.name} is to be withdrawn")


def _spread(life: Life, decision: Decision) -> None:
    """No two pods of a spread group hold slices of one GPU, or are planned to."""
    world = life.world
    there = {
        (agent.uuid(index), s.pod)
        for agent in world.agents.values()
        for index, gpu in enumerate(agent.gpus)
        for s in gpu
        if s.pod
    }
    planned = (p for p in decision.plan.placements if not world.pods[p.pod.key].node)
    there.update((gpu, p.pod.key) for p in planned for gpu in p.gpus)
    groups = {p.key: p.group_key for p in world.pods.values() if p.spread}
    seen = Counter((gpu, groups[key]) for gpu, key in there if key in groups)
    for (gpu, group), count in seen.items():
        if count > 1:
            life.problem(f"{count} pods of {group} share GPU {gpu}")
    life.seen["spread groups with two placed"] += len(
        [group for group, count in Counter(group for _, group in seen).items() if count > 1]
    )
    life.seen["refused beside others of their group"] += len(world.refused_beside)
    world.refused_beside.clear()


def _backoff_holds_nothing(life: Life, decision: Decision) -> None:
    for placement in decision.plan.placements:
        progress = decision.progress.get(placement.pod.uid)
        if progress is not None and progress.phase is Phase.BACKOFF:
            life.problem(f"{placement.pod.name} backs off and holds a place")


def _fits_somewhere(life: Life, pod: Pod) -> bool:
    """Whether a node has room for the pod beside what is bound, whatever is planned."""
    return any(_fits(life, pod, name) for name in life.world.agents)


def _fits(life: Life, pod: Pod, name: str) -> bool:
    world, agent = life.world, life.world.agents[name]
    labels = world.nodes[name].labels
    if any(labels.get(k) != v for k, v in pod.constraints.node_selector):
        return False
    there = [other for other in world.pods.values() if other.node == name]
    if world.cpu(name) - sum(p.requests.cpu_milli for p in there) < pod.requests.cpu_milli:
        return False
    rooms = [
        capacity - sum(s.size for s in gpu if s.pod)
        for capacity, gpu in zip(agent.capacities, agent.gpus, strict=True)
    ]
    for size in sorted(pod.seats, reverse=True):
        best = max(range(len(rooms)), key=rooms.__getitem__)
        if rooms[best] < size:
            return False
        rooms[best] -= size
    return True


def _restart_changes_nothing(life: Life, decision: Decision) -> None:
    """A planner that knows only what the cluster says has nothing to do where the old one has not.

    Not asked while something is under way: that may be done in another way as well.
    """
    under_way = any(
        p.phase in (Phase.CARVING, Phase.OFFERED)
        or (p.avoided and not p.backs_off)
        or (p.nominated is not None and life.world.wall < p.nominated + RENOMINATE)
        for p in decision.progress.values()
    )
    if under_way or decision.away or life.world.events:
        return
    view = replace(life.planner.view(life.world), progress={}, planned={})
    # What conditions say may differ while a plan depends on the one before.
    actions = [a for a in decide(view).actions if not isinstance(a, Inform) or a.note is not None]
    life.seen["restarts at rest"] += 1
    if actions:
        life.problem(f"a restarted planner would do {[action.facts for action in actions][:3]}")


def _causes(life: Life, decision: Decision) -> None:
    """Each cause that is told holds on at least as many nodes as it is told of."""
    for refusal in decision.plan.refusals:
        if refusal.own is Cause.GROUP:
            continue  # what keeps its group from fitting need not keep the pod alone from it
        for cause, count in refusal.causes:
            able = sum(_holds(life, decision, refusal, cause, name) for name in life.world.agents)
            if able < count:
                life.problem(
                    f"{refusal.pod.name} is told {count} {cause}, which holds on {able} nodes: "
                    f"{refusal}"
                )


def _holds(life: Life, decision: Decision, refusal: Refusal, cause: Cause, name: str) -> bool:
    pod, world = refusal.pod, life.world
    labels = world.nodes[name].labels
    capacities = world.agents[name].capacities
    planned = [p for p in decision.plan.placements if p.node == name]
    match cause:
        case Cause.NODE_AFFINITY:
            return any(labels.get(k) != v for k, v in pod.constraints.node_selector)
        case Cause.CPU:
            there = [p for p in world.pods.values() if p.node == name] + [p.pod for p in planned]
            used = sum(p.requests.cpu_milli for p in there)
            return world.cpu(name) - used < pod.requests.cpu_milli
        case Cause.GPU_TOO_SMALL:
            return max(capacities) < max(pod.seats) or sum(capacities) < sum(pod.seats)
        case Cause.GPU_MEMORY if not world.needed(name):
            return _is_full(life, decision, pod, name)
        case Cause.AVOIDED:
            return name in pod.avoid
        case Cause.NOT_READY:
            return True
        case _:
            return True


def _is_full(life: Life, decision: Decision, pod: Pod, name: str) -> bool:
    """Whether the pod's slices have no room beside used ones, those planned and those reserved."""
    agent = life.world.agents[name]
    if any(reservation.node == name for reservation in decision.plan.reservations):
        return True
    rooms = {
        agent.uuid(index): capacity - sum(s.size for s in gpu if s.pod)
        for index, (capacity, gpu) in enumerate(zip(agent.capacities, agent.gpus, strict=True))
    }
    group = pod.group_key if pod.spread else None
    mates = {p.key for p in life.world.pods.values() if p.spread and p.group_key == group}
    beside = [any(s.pod in mates for s in gpu) for gpu in agent.gpus]
    shared = {agent.uuid(index) for index, found in enumerate(beside) if found}
    for placement in decision.plan.placements:
        if placement.node == name:
            for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True):
                rooms[gpu] -= size
            shared.update(placement.gpus if placement.pod.key in mates else ())
    rooms = {gpu: room for gpu, room in rooms.items() if gpu not in shared}
    if not rooms:
        return True
    for size in sorted(pod.seats, reverse=True):
        best = max(rooms, key=lambda gpu: rooms[gpu])
        if rooms[best] < size:
            return True
        rooms[best] -= size
    return False
