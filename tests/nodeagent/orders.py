"""A node in which all that tells of holders comes late, in any order; and what is true of it.

One `World` is one seeded order of Allocates, checkpoints, PodResources, watch events, forced
deletions and restarts. It keeps the truth beside the table and compares the two after every step.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.hardware import ComputeCapability, Gpu
from nodeagent.slices.evidence import Claim, Holder, Pods, Reading
from nodeagent.slices.pods import Need, PodFacts
from nodeagent.slices.table import SliceTable

SIZE = SliceSize(10)
GPU = Gpu(GpuUuid("GPU-a"), 0, "A100", 81920, 626, ComputeCapability(8, 0))
IDS = tuple(DeviceId(GPU.uuid, SIZE, n) for n in range(2))
NAMES = ("ns/a", "ns/b", "ns/c")
WATCH_LAG = 20.0
"""Seconds. A watch later than that is not modelled: an Allocate is forgotten after 30."""
FORGOTTEN = 30.0
KINDS = (("main",), ("init",), ("init", "main"), ("init", "second"))


@dataclass(eq=False)
class Pod:
    """The truth of a pod: its slice, how far the kubelet is with it, and whether it runs still."""

    key: str
    uid: str
    containers: tuple[str, ...]
    slice_: DeviceId | None = None
    asked: int = 0  # containers for which the kubelet has asked
    inserted: int = 0  # and those of which it has recorded the answer
    active: bool = True  # to the kubelet
    runs: bool = False

    def facts(
        self, *, admitted: bool = False, ended: bool = False, stopped: bool = False
    ) -> PodFacts:
        needs = tuple(Need(container, SIZE) for container in self.containers)
        return PodFacts(self.key, self.uid, needs, admitted=admitted, ended=ended, stopped=stopped)


@dataclass
class World:
    """`wrong` names each lie that the table told."""

    dice: random.Random
    now: float = 1000.0
    pods: list[Pod] = field(default_factory=list)
    api: dict[str, PodFacts] = field(default_factory=dict)  # by uid
    view: dict[str, PodFacts] = field(default_factory=dict)
    coming: list[tuple[float, str, PodFacts | None]] = field(default_factory=list)
    written: list[tuple[Claim, ...]] = field(default_factory=lambda: [()])
    checkpoint: tuple[Claim, ...] = ()
    begun: Reading | None = None
    given: dict[DeviceId, Pod] = field(default_factory=dict)  # by this agent's last Allocate
    told: dict[DeviceId, set[Holder]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = self._agent()

    def _agent(self) -> SliceTable:
        table = SliceTable([GPU], lambda: Pods.of(self.view.values()))
        table.adopt(IDS)
        return table

    def run(self, steps: int) -> None:
        """So many random steps; it ends at the first lie."""
        moves: list[Callable[[], str]] = [
            self.create, self.create, self.allocate, self.allocate, self.allocate, self.insert,
            self.insert, self.start, self.end, self.force_delete, self.die, self.write, self.write,
            self.watch, self.watch, self.begin_reading, self.end_reading, self.end_reading,
            self.restart, self.wait,
        ]  # fmt: skip
        for _ in range(steps):
            self.now += 0.001
            move = self.dice.choice(moves)
            if move == self.restart and self.dice.random() < 0.7:
                continue
            what = move()
            if what:
                self.history.append(f"{self.now:.3f} {what}")
                self._compare()
            if self.wrong:
                return

    def settle(self) -> list[str]:
        """What the table says wrongly once all is heard and what nothing explains is old."""
        self._end_admissions()
        while self.coming:
            self.watch()
        self.written.append(tuple(self._kubelets_claims()))
        self.checkpoint = self.written[-1]
        self.end_reading()
        for _ in range(2):
            self.now += FORGOTTEN + 1
            self.begin_reading()
            self.end_reading()
        self.die()
        truth = {p.slice_: p.key for p in self.pods if p.active and p.slice_ is not None}
        named = {p.key for p in self.pods if p.active}
        told = {
            id_: holder.pod
            for id_, holder in self.table.holders.items()
            # A layout's status has names alone: a pod of the name keeps what was the earlier one's.
            if id_ in truth or holder.uid or holder.pod not in named
        }
        return [] if told == truth else [f"told {told}, true is {truth}"]

    # What happens to pods.

    def create(self) -> str:
        name = self.dice.choice(NAMES)
        if any(facts.key == name for facts in self.api.values()):
            return ""
        pod = Pod(name, f"uid-{len(self.pods)}", self.dice.choice(KINDS))
        self.pods.append(pod)
        self._tell_api(pod, pod.facts())
        return f"create {pod.key} {pod.uid} {pod.containers}"

    def allocate(self) -> str:
        """The kubelet asks for a container's slice; a pod's containers share one (trap J)."""
        waiting = [p for p in self.pods if p.active and p.asked == p.inserted < len(p.containers)]
        free = [id_ for id_ in IDS if not any(p.active and p.slice_ == id_ for p in self.pods)]
        if not waiting:
            return ""
        pod = self.dice.choice(waiting)
        if pod.slice_ is None:
            if not free:
                return ""
            pod.slice_ = self.dice.choice(free)
        return self._allocate(pod, pod.slice_)

    def _allocate(self, pod: Pod, slice_: DeviceId) -> str:
        self.table.allocate([slice_])
        self.given[slice_] = pod
        self.told[slice_] = set()
        pod.asked += 1
        return f"Allocate {slice_} for {pod.uid} {pod.containers[pod.asked - 1]}"

    def _admit_further(self, pod: Pod) -> None:
        if pod.inserted == pod.asked and pod.slice_ is not None:
            self.history.append(self._allocate(pod, pod.slice_))
        self._insert(pod)

    def insert(self) -> str:
        pods = [p for p in self.pods if p.inserted < p.asked]
        if not pods:
            return ""
        return self._insert(self.dice.choice(pods))

    def _insert(self, pod: Pod) -> str:
        pod.inserted += 1
        self.written.append(tuple(self._kubelets_claims()))
        return f"the kubelet records {pod.uid}"

    def _kubelets_claims(self) -> Iterable[Claim]:
        for pod in self.pods:
            if pod.slice_ is not None and pod.active:
                for container in pod.containers[: pod.inserted]:
                    yield Claim(pod.slice_, container, uid=pod.uid)

    def start(self) -> str:
        pods = [p for p in self.pods if p.active and p.inserted == len(p.containers)]
        if not pods:
            return ""
        pod = self.dice.choice(pods)
        pod.runs = True
        self._tell_api(pod, pod.facts(admitted=True))
        return f"{pod.uid} starts"

    def end(self) -> str:
        """It ends, or is refused after an Allocate; its containers are seen to end."""
        pods = [p for p in self.pods if p.active and p.asked == p.inserted and p.uid in self.api]
        if not pods:
            return ""
        pod = self.dice.choice(pods)
        pod.active = pod.runs = False
        self._tell_api(pod, pod.facts(admitted=True, ended=True, stopped=True))
        if self.dice.random() < 0.5:
            self._tell_api(pod, None)
        return f"{pod.uid} ends"

    def force_delete(self) -> str:
        """The API and the kubelet forget it at once; its processes may run on."""
        pods = [p for p in self.pods if p.active and p.asked == p.inserted and p.uid in self.api]
        if not pods:
            return ""
        pod = self.dice.choice(pods)
        pod.active = False
        self._tell_api(pod, None)
        return f"{pod.uid} is force-deleted"

    def die(self) -> str:
        """The processes of a pod that is gone end, and the agent sees it."""
        for pod in self.pods:
            if not pod.active:
                pod.runs = False
        left = self.table.leftovers
        self.table.vacate(left)
        return f"nothing is left of {left}" if left else ""

    # What is heard of it, and when.

    def _tell_api(self, pod: Pod, facts: PodFacts | None) -> None:
        if facts is None:
            self.api.pop(pod.uid, None)
        else:
            self.api[pod.uid] = facts
        self.coming.append((self.now, pod.uid, facts))

    def write(self) -> str:
        """A checkpoint is written; the last one or, out of order, one before it."""
        before, self.checkpoint = self.checkpoint, self.dice.choice(self.written[-3:])
        return f"checkpoint {_named(self.checkpoint)}" if before != self.checkpoint else ""

    def watch(self) -> str:
        if not self.coming:
            return ""
        _, uid, facts = self.coming.pop(0)
        if facts is None:
            self.view.pop(uid, None)
        else:
            self.view[uid] = facts
        self.table.judge()
        return f"the watch tells of {uid}: {facts and ('ended' if facts.ended else 'lives')}"

    def begin_reading(self) -> str:
        if self.begun is not None:
            return ""
        listed = {
            pod.slice_: Claim(pod.slice_, "main", pod=pod.key)
            for pod in self.pods
            if pod.slice_ and pod.active and "main" in pod.containers[: pod.inserted]
        }
        reading = Reading(self.now, tuple(listed.values()), complete=True)
        self.begun = reading.with_uids(Pods.of(self.view.values()))
        return f"List {_named(self.begun.listed)}"

    def end_reading(self) -> str:
        if self.begun is None:
            return ""
        reading, self.begun = replace(self.begun, checkpointed=self.checkpoint), None
        self.table.read(reading)
        forgotten = self.table.forget(reading.at - FORGOTTEN)
        return f"read {_named(reading.listed)} {_named(self.checkpoint)}, forgotten {forgotten}"

    def restart(self) -> str:
        """The next agent lists all pods, and takes over what the layout's status names."""
        before = dict(self.table.holders)
        while self.coming:
            self.watch()
        self.begun, self.given, self.told = None, {}, {}
        self._end_admissions()  # an agent takes longer to start than an admission
        self.checkpoint = self.dice.choice(self.written[-2:])
        self.written = [self.checkpoint]
        self.table = self._agent()
        self.table.read(Reading(0.0, (), self.checkpoint))
        used = {id_: Holder(holder.pod, holder.container) for id_, holder in before.items()}
        self.table.remember(used)
        return "the agent restarts"

    def wait(self) -> str:
        """Time passes; admissions end, and the watch is late by a bounded time."""
        self._end_admissions()
        self.now += self.dice.choice((1.0, 10.0, 40.0))
        while self.coming and self.coming[0][0] < self.now - WATCH_LAG:
            self.watch()
        return ""

    def _end_admissions(self) -> None:
        for pod in self.pods:
            if pod.asked and pod.active:
                while pod.inserted < len(pod.containers):
                    self._admit_further(pod)
                if not self.api[pod.uid].admitted:
                    self._tell_api(pod, pod.facts(admitted=True))

    # What is true.

    def _compare(self) -> None:
        for id_ in IDS:
            record, pod = self.table.get(id_), self.given.get(id_)
            holder = record.holder
            if holder is not None and holder.pod:
                ever = [p for p in self.pods if p.slice_ == id_ and p.asked]
                possible = [pod] if pod is not None else ever
                if not any(p.key == holder.pod and holder.uid in ("", p.uid) for p in possible):
                    self.wrong.append(f"{id_} is said to be held by {holder}")
                self.told.setdefault(id_, set()).add(holder)
            if pod is not None and pod.active and holder is None and pod.uid not in self._ended():
                self.wrong.append(f"{id_} is said to be free and {pod.uid} has it")
            known = {each.uid for each in (holder, *record.earlier, *record.leftovers) if each}
            for before in self.told.get(id_, ()):
                runs = any(p.runs and not p.active and p.uid == before.uid for p in self.pods)
                if runs and before.uid not in known:
                    self.wrong.append(f"{before} is not known to run on in {id_}")

    def _ended(self) -> set[str]:
        return {uid for uid, facts in self.view.items() if facts.ended}


def _named(claims: Iterable[Claim]) -> list[str]:
    return [f"{c.id.ordinal}={c.pod}{c.uid}/{c.container}" for c in claims]
