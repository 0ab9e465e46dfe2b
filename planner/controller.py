"""The planner's loop: wake when something changed or is due, decide, act, tell. No polling."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from mpslice.errors import InvalidNodeLayout
from mpslice.kube.api import Kube
from mpslice.kube.errors import Conflict, KubeError, NotFound, is_refusal
from mpslice.kube.events import EventRecorder
from mpslice.kube.reflector import Change
from mpslice.nodelayout import NodeLayout
from planner.ageing import seconds_until
from planner.batch import Batch
from planner.breath import Breath
from planner.decide import decide
from planner.interest import Interest, interest_of
from planner.metrics import Metrics
from planner.model.plan import Placement
from planner.model.pods import Pod
from planner.progress.machine import Phase, Progress
from planner.progress.note import read_note
from planner.quarantine import Quarantine, find_culprit
from planner.state.absence import Absences
from planner.state.cluster import Cluster
from planner.state.known import KnownNodes
from planner.view import Decision, View
from planner.words.storyteller import Storyteller, tell_evicted, tell_set_aside
from planner.writes.actions import Action, Evict, Inform, Nominate, Ungate, WriteSpec
from planner.writes.bucket import TokenBucket
from planner.writes.perform import perform
from planner.writes.setbacks import Setbacks
from planner.writes.writer import Writer

_WRITE: Final = 5.0  # seconds for one write
_TELL: Final = 0.05  # seconds: the writes that pods wait for go first, Events would slow them down
_LOOK_AT_CLOCK: Final = 60.0  # seconds
_CLOCK_STEP: Final = 2.0
"""Seconds. The planner reckons deadlines anew once the wall clock has been set by more than this;
time synchronization moves the clock by milliseconds."""

_MANY: Final = 200  # pending pods: a plan for more may take long

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags that the planner works by; times in seconds, `qps` and `burst` limit its writes.

    Without `gate` the gate is taken from every pod that still carries it, planned or not.
    """

    label: tuple[str, str]
    batch_idle: float
    batch_max: float
    gate: bool
    max_slices_per_gpu: int
    qps: int = 400
    burst: int = 1000
    solver: bool = False
    preemption: bool = False


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Controller:
    """Follows the cluster, and carries out what `decide` says.

    `clock` is the wall clock that deadlines and the waiting of pods are measured by; `absences`
    makes what remembers where agents are away.
    """

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        recorder: EventRecorder,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime] = utc_now,
        absences: Callable[[], Absences] = Absences,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._metrics = metrics
        self._on_change: Callable[[], None] = lambda: None
        self._cluster = Cluster(kube, self._on_pod, self._trigger, preemption=settings.preemption)
        self._recorder = recorder
        self._storyteller = Storyteller(recorder, settings.label)
        self._batch = Batch(settings.batch_idle, settings.batch_max)
        self._new_absences = absences
        self._absences = absences()
        self._clock = clock
        self._wake = asyncio.Event()
        self._changed = False  # something that a decision looks at
        self._alarm: float | None = None  # when waiting alone changes the decision (monotonic)
        self._set_off = 0.0  # of the wall clock against the monotonic, at the newest decision
        self._newest: Decision | None = None  # of this term
        self._tell_at: float | None = None
        self._planned: Mapping[str, Placement] = {}  # by uid
        self._setbacks = Setbacks()
        self._progress: Mapping[str, Progress] = {}  # by uid; what a restart needs is in the pods
        self._freed: dict[str, datetime] = {}  # by uid, when other people's gates went
        self._known = KnownNodes()
        self._quarantine = Quarantine()
        self._breath = Breath()
        self._interest: Interest | None = None  # None while it is being decided

    @property
    def synced(self) -> bool:
        """Whether everything has been listed once."""
        return self._cluster.is_synced

    @property
    def cluster(self) -> Cluster:
        """The local copies, to be read."""
        return self._cluster

    def notify(self, on_change: Callable[[], None]) -> None:
        """Has `on_change` called whenever the local copies or the newest decision change."""
        self._on_change = on_change

    @property
    def newest(self) -> Decision | None:
        """The newest decision; None while another replica leads."""
        return self._newest

    async def follow(self) -> None:
        """Keeps the local copies up to date; every replica does, so that a new leader is warm."""
        await self._cluster.follow()

    def message(self) -> str:
        """What the next leader has to know: for how many seconds more kube-scheduler may lag behind
        after an outage; "" for none."""
        return str(math.ceil(self._cluster.seconds_behind(time.monotonic())) or "")

    async def lead(self, message: str = "") -> None:
        """Decides and acts until cancelled; only the leader may.

        `message` is that of the leader before; what is no number in it counts for nothing.
        """
        if message.isdecimal():
            log.info("kube-scheduler may lag behind after an outage", extra={"seconds": message})
            self._cluster.inherit(float(message))
        await self._cluster.synced()
        self._batch.release()
        self._absences = self._new_absences()  # an earlier term's are no start of this one's
        self._progress = {}
        self._setbacks = Setbacks()
        self._planned = {}
        self._newest = self._tell_at = None
        self._changed = True
        bucket = TokenBucket(self._settings.qps, self._settings.burst)
        async with asyncio.TaskGroup() as tasks:
            writer = Writer(tasks, self._perform, self._trigger, bucket)
            try:
                while True:
                    if self._changed:
                        # What comes in meanwhile is decided, too.
                        await asyncio.sleep(self._breath.left(time.monotonic()))
                        self._changed = False
                        self._interest = None
                        started = time.monotonic()
                        decision = await self._decide(writer)
                        self._interest = interest_of(decision)
                        self._act(decision, writer)
                        self._breath.decided(started, time.monotonic())
                    await self._wait()
            finally:
                writer.close()
                self._metrics.idle()
                self._newest = None
                self._on_change()

    def _act(self, decision: Decision, writer: Writer) -> None:
        writer.submit(action for action in decision.actions if self._is_open(action))
        now = time.monotonic()
        self._newest = decision
        self._on_change()
        self._tell_at = min(self._tell_at or math.inf, now + _TELL)

    def _is_open(self, action: Action) -> bool:
        """Whether there is something left of it to do after a decision that took long."""
        return not isinstance(action, Ungate) or self._cluster.is_gated(action.pod)

    async def _wait(self) -> None:
        """Until something changed, or something is due that needs a new decision.

        What there is to tell is told when its time has come, also where something always changes.
        """
        while True:
            now = time.monotonic()
            if self._tell_at is not None and self._tell_at <= now:
                self._tell(now)
            if self._changed:
                return
            batch = self._batch.due()
            passed = any(due is not None and due <= now for due in (batch, self._alarm))
            if passed or (self._alarm is not None and self._clock_was_set(now)):
                self._alarm = None
                self._changed = True
                return
            look = None if self._alarm is None else now + _LOOK_AT_CLOCK
            dues = [due for due in (batch, self._alarm, self._tell_at, look) if due is not None]
            self._wake.clear()
            try:
                async with asyncio.timeout(min(dues) - now if dues else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _clock_was_set(self, now: float) -> bool:
        """Whether what is due was reckoned by a wall clock that has been put right, or wrong."""
        return abs(self._clock().timestamp() - now - self._set_off) > _CLOCK_STEP

    def _tell(self, now: float) -> None:
        if self._newest is not None:
            self._storyteller.tell(self._newest, now=now)
            self._tell_at = self._storyteller.due

    def _trigger(self) -> None:
        self._changed = True
        self._breath.changed()
        self._wake.set()
        self._on_change()

    async def _decide(self, writer: Writer) -> Decision:
        now = time.monotonic()
        due = self._batch.due()
        if due is not None and due <= now:
            self._batch.release()
        wall = self._clock()
        self._set_off = wall.timestamp() - now
        started = time.perf_counter()
        decision = await self._think(self._view(wall, now, writer))
        self._planned, self._progress = decision.planned, decision.progress
        for node, problem in decision.overdue.items():
            self._absences.overdue(node, problem, now)
        self._metrics.decided(decision, seconds=time.perf_counter() - started)
        due = None if decision.due is None else now + seconds_until(decision.due, wall)
        dues = (due, self._absences.due(), self._cluster.leaving_due(now))
        alarms = [alarm for alarm in dues if alarm is not None]
        self._alarm = min(alarms, default=None)
        return decision

    async def _think(self, view: View) -> Decision:
        """Decides, beside the event loop where that may take long: it has a lease to renew.

        What changes meanwhile is decided upon next, as what a watch has not shown yet; what was
        decided before is written meanwhile. Pods that no decision can be made with are set aside.
        """
        while True:
            trusted = self._quarantine.trusted(view, time.monotonic())
            try:
                if self._breath.is_long or sum(pod.is_pending for pod in view.pods) > _MANY:
                    return await asyncio.to_thread(decide, trusted)
                return decide(trusted)
            except Exception as error:
                culprit = await asyncio.to_thread(find_culprit, trusted, decide)
                if culprit is None:
                    raise
                log.exception("a pod is set aside", extra={"pod": culprit.key})
                aside = self._quarantine.set_aside(culprit, error, time.monotonic())
                self._metrics.set_aside(aside)
                tell_set_aside(self._recorder, aside)

    def _view(self, wall: datetime, now: float, writer: Writer) -> View:
        nodes = self._cluster.nodes
        return View(
            nodes=nodes,
            layouts=self._layouts(writer),
            pods=self._pods(writer),
            label=self._settings.label,
            waiting=self._batch.held,
            away=self._absences.watch(nodes, self._cluster.layouts, now),
            unreadable=self._cluster.unreadable,
            gate=self._settings.gate,
            unnominable=frozenset(self._setbacks.unnominable),
            max_slices_per_gpu=self._settings.max_slices_per_gpu,
            minimums=self._cluster.minimums,
            now=wall,
            namespaces=self._cluster.namespaces,
            planned=self._planned,
            progress=self._progress,
            freed=self._freed,
            refused=dict(self._setbacks.refused),
            going=writer.going,
            leaving=self._cluster.leaving(now),
            catching_up=self._cluster.catching_up(now),
            blind=self._cluster.is_blind(now),
            solver=self._settings.solver,
            preemption=self._settings.preemption,
            budgets=self._cluster.budgets,
            spared=self._setbacks.spared_by(wall),
            known=self._known,
        )

    def _layouts(self, writer: Writer) -> dict[str, NodeLayout]:
        """What is intended counts as written: a plan on half of another would be no plan."""
        layouts = self._cluster.layouts
        for action in writer.intended:
            base, layout = action.layout, layouts.get(action.layout.name)
            if layout and layout.uid == base.uid and layout.generation <= base.generation:
                ahead = replace(layout, spec=action.spec, generation=base.generation + 1)
                layouts[layout.name] = ahead
        return layouts

    def _pods(self, writer: Writer) -> tuple[Pod, ...]:
        """A pod whose gate is being taken away may be bound at any moment."""
        ungating, pods = writer.ungating, self._cluster.pods
        if not ungating:
            return pods
        return tuple([replace(p, gates=()) if p.gates and p.uid in ungating else p for p in pods])

    async def _perform(self, action: Action) -> bool:
        """Whether it worked; one object's trouble never stops the others."""
        place = action.place if isinstance(action, Ungate) else None
        if place is not None and not self._cluster.is_offered(place):
            log.info("its slices are gone meanwhile", extra=action.facts)
            return False
        try:
            async with asyncio.timeout(_WRITE):
                answer = await perform(self._kube, self._cluster.on_newest(action))
            self._cluster.remember(action, answer)
        except (Conflict, NotFound) as error:
            self._cluster.forget(action)
            log.info("the object has changed meanwhile", extra={"error": str(error)})
            return False
        except (KubeError, InvalidNodeLayout, TimeoutError) as error:
            self._complain(action, error)
            return False
        self._note(action)
        log.info("done", extra=action.facts)
        return True

    def _complain(self, action: Action, error: Exception) -> None:
        facts = {**action.facts, "error": str(error) or "no answer in time"}
        if self._setbacks.failed(action, error, self._clock()):
            self._trigger()
        if not is_refusal(error) and not isinstance(error, InvalidNodeLayout):
            self._cluster.unanswered(time.monotonic())
        elif isinstance(action, WriteSpec) and is_refusal(error):
            self._absences.refused(action.layout.name, str(error), time.monotonic())
        if isinstance(action, Nominate) and action.pod.uid in self._setbacks.unnominable:
            log.warning("not nominated: is `patch` on pods/status allowed?", extra=facts)
        else:
            log.warning("a write failed, it is tried again", extra=facts)

    def _note(self, action: Action) -> None:
        self._setbacks.worked(action)
        match action:
            case Ungate(pod=pod, carved=True):
                self._metrics.carved(pod)
            case WriteSpec(layout=layout):
                self._absences.written(layout.name)
                self._metrics.written(action)
            case Inform(note=note) if note and read_note(note).progress.preempting is not None:
                self._trigger()  # pods may be evicted that waited for it
            case Evict():
                self._metrics.evicted()
                tell_evicted(self._recorder, action)
            case Nominate():
                self._trigger()  # gates may go that waited for it

    def _on_pod(self, change: Change[Pod]) -> None:
        self._on_change()
        old, new = change.old, change.new
        begins = new is not None and new.is_pending and not _was_pending(old, new)
        if new is not None and begins:
            self._batch.arrive(change.key, time.monotonic(), grouped=bool(new.group))
            self._metrics.arrived(new)
            if old is not None and old.uid == new.uid and old.gates and not old.is_pending:
                self._freed[new.uid] = self._clock()
        elif new is None or not new.is_pending:
            self._batch.leave(change.key)
        if old is not None and (new is None or new.uid != old.uid):
            self._setbacks.gone(old.uid)
        if old is not None and (new is None or new.uid != old.uid or not new.is_pending):
            self._setbacks.settled(old.uid)
            self._freed.pop(old.uid, None)
            self._metrics.left(old.uid)
        if self._batch.holds(change.key) and not (old and old.node):
            self._wake.set()  # only the time at which the batch is complete has changed
        elif self._may_alter(old, new) or self._matters(old, new):
            self._trigger()

    def _may_alter(self, old: Pod | None, new: Pod | None) -> bool:
        """Whether the change could alter the newest decision, or the one that is being made."""
        if _weight(old) == _weight(new):
            return False
        if self._interest is None or any(pod is not None and pod.claims for pod in (old, new)):
            return True
        return self._interest.concerns(old, new)

    def _matters(self, old: Pod | None, new: Pod | None) -> bool:
        """Whether the scheduler has said something of a pod that is waited for."""
        if old is None or new is None or old.unschedulable == new.unschedulable:
            return False
        progress = self._progress.get(new.uid)
        return progress is not None and (
            progress.phase in (Phase.OFFERED, Phase.BACKOFF)
            or (self._settings.preemption and not old.unschedulable)
        )


def _was_pending(old: Pod | None, new: Pod) -> bool:
    return old is not None and old.is_pending and old.uid == new.uid


def _weight(pod: Pod | None) -> object:
    """What of a pod a plan looks at: nothing of one that has ended, unless its group counts it."""
    if pod is None or not (pod.node or pod.is_pending or pod.nominated or pod.group):
        return None
    if pod.finished and not pod.group:
        return None
    return replace(pod, resource_version="", unschedulable="", progress="", available=None)
