"""One slice as a frozen record, and `step`, the only function that changes one. Pure.

The phase says how far the slice is known, on its way in and out; `step` refuses every other step:

    event      from                to               because
    CARVED     Absent              Carved           it is put into the kubelet's list, as healthy
    ADOPTED    Absent, Lost        Bindable         an earlier agent carved it
    MISSED     Absent              Lost             so it did, and the GPU does not show
    SHOWN      Carved              Bindable         the kubelet has shown that it knows it
    CLOSED     Carved, Bindable    Closed           the node's status is to count it no more
    RETIRED    Closed              Retired          it is listed as unhealthy
    RESTORED   Closed, Retired     as before        it stays after all
    REMOVED    Retired, unused     Absent           it is listed no more
    DROPPED    Lost, unused        Absent           its GPU shows again, and nobody holds it

The holder moves apart from the phase. What is known of it is as old as `since` says:

    event      holder becomes
    Allocated  one not known yet: the pod before may have the slice again, or another pod has it
    Told       the one that the evidence names. An Allocate is explained only by a reading that
               began after it and names a container that no reading named before it; nobody holds
               the slice if the pod of that container has gone by then. Without an Allocate the
               holder stays while its pod lives and is not shown with another slice
    Forgotten  nobody, if no evidence explains the Allocate: the pod failed its admission after it
    Remembered the one that an earlier agent reported, while nothing else is known
    Vacated    unchanged: no process is left of an earlier holder
    Awaited    unchanged: a withdrawal waited in vain for pods, and is not tried again for a while

A holder whose pod is gone, and whose containers nobody saw end, becomes one of the `leftovers`: the
kubelet gives the devices of a force-deleted pod away at once, while its processes may run on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from mpslice.gpus import DeviceId
from nodeagent.errors import IllegalStep
from nodeagent.slices.evidence import Claim, Claimant, Holder, Pods
from nodeagent.slices.pods import PodFacts

_REMEMBERED: Final = 32
"""Claims of earlier holders that are kept for each slice: the kubelet may write an older checkpoint
over a newer one (writeCheckpoint, unlocked), but by a few writes at most."""


class Phase(StrEnum):
    """See the table above."""

    ABSENT = "Absent"
    LOST = "Lost"
    CARVED = "Carved"
    BINDABLE = "Bindable"
    CLOSED = "Closed"
    RETIRED = "Retired"


class Event(StrEnum):
    """What moves the phase."""

    CARVED = "carved"
    ADOPTED = "adopted"
    MISSED = "missed"
    SHOWN = "shown"
    CLOSED = "closed"
    RETIRED = "retired"
    RESTORED = "restored"
    REMOVED = "removed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Allocated:
    """The kubelet asked for the slice and was given it, at a time in monotonic seconds."""

    at: float


@dataclass(frozen=True, slots=True)
class Told:
    """What one reading says of one slice, judged by the pods as they are now.

    `at` is when the reading began. `listed` is PodResources' claim, with the uid that its pod's
    name had. `elsewhere` are containers that are shown with another slice of the size. `last` are
    the pods as they were at the judgement before, `departed` those that have ended or were deleted
    since the newest Allocate, by their uid.
    """

    at: float
    listed: Claim | None
    checkpointed: tuple[Claim, ...]
    complete: bool
    elsewhere: frozenset[Claimant]
    pods: Pods
    last: Pods
    departed: Mapping[str, PodFacts]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """No evidence has explained the Allocates for a long time; `told` is the newest."""

    told: Told


@dataclass(frozen=True, slots=True)
class Remembered:
    """An earlier agent reported this holder."""

    holder: Holder
    at: float


@dataclass(frozen=True, slots=True)
class Awaited:
    """Its withdrawal waited for pods that did not arrive; it rests until then (monotonic)."""

    until: float


@dataclass(frozen=True, slots=True)
class Vacated:
    """No process is left of these."""

    holders: tuple[Holder, ...]


Step = Event | Allocated | Told | Forgotten | Remembered | Vacated | Awaited


@dataclass(frozen=True, slots=True)
class Slice:
    """`shown`: the kubelet has shown that it knows it. `since`: the age of the holder's evidence.

    `asked` are the times of Allocates that nothing explains yet; `earlier` held the slice before
    them; `named` are containers that any reading named, `superseded` those named before `asked`.
    """

    id: DeviceId
    phase: Phase = Phase.ABSENT
    shown: bool = False
    holder: Holder | None = None
    since: float = 0.0
    asked: tuple[float, ...] = ()
    earlier: tuple[Holder, ...] = ()
    named: tuple[Claimant, ...] = ()
    superseded: tuple[Claimant, ...] = ()
    leftovers: tuple[Holder, ...] = ()
    rests_until: float = 0.0

    @property
    def stands(self) -> bool:
        """Whether it is in the kubelet's list."""
        return self.phase not in (Phase.ABSENT, Phase.LOST)

    @property
    def user(self) -> Holder | None:
        """The holder, or an earlier one whose processes may still use it; None when it is free."""
        return self.holder or (self.leftovers[-1] if self.leftovers else None)

    @property
    def blank(self) -> bool:
        """Whether there is nothing to know of it."""
        return self.phase is Phase.ABSENT and self.user is None and not self.asked


_TRANSITIONS: Final = {
    (Phase.ABSENT, Event.CARVED): Phase.CARVED,
    (Phase.ABSENT, Event.ADOPTED): Phase.BINDABLE,
    (Phase.LOST, Event.ADOPTED): Phase.BINDABLE,
    (Phase.ABSENT, Event.MISSED): Phase.LOST,
    (Phase.CARVED, Event.SHOWN): Phase.BINDABLE,
    (Phase.CARVED, Event.CLOSED): Phase.CLOSED,
    (Phase.BINDABLE, Event.CLOSED): Phase.CLOSED,
    (Phase.CLOSED, Event.RETIRED): Phase.RETIRED,
    (Phase.CLOSED, Event.RESTORED): Phase.BINDABLE,
    (Phase.RETIRED, Event.RESTORED): Phase.BINDABLE,
    (Phase.RETIRED, Event.REMOVED): Phase.ABSENT,
    (Phase.LOST, Event.DROPPED): Phase.ABSENT,
}


def step(slice_: Slice, event: Step) -> Slice:
    """The slice after the event; raises IllegalStep for one that the table does not have."""
    match event:
        case Event():
            return _move(slice_, event)
        case Allocated(at):
            return _allocated(slice_, at)
        case Told():
            return _told(slice_, event)
        case Forgotten(told):
            # A pod that was listed is listed as long as it is there.
            holder = slice_.holder if told.listed is not None else None
            return _told(replace(slice_, holder=holder, asked=(), superseded=()), told)
        case Remembered(holder, at):
            free = slice_.holder is None and not slice_.leftovers
            return replace(slice_, holder=holder, since=at) if free else slice_
        case Awaited(until):
            return replace(slice_, rests_until=until)
        case Vacated(holders):
            left = tuple(holder for holder in slice_.leftovers if holder not in holders)
            return replace(slice_, leftovers=left)


def is_settled(
    slice_: Slice, listed: Claim | None, checkpointed: tuple[Claim, ...], pods: Pods
) -> bool:
    """Whether being Told this changes nothing, as with most of a node's hundreds of slices."""
    holder = slice_.holder
    return (
        not slice_.asked
        and holder is not None
        and listed is not None
        and (listed.pod, listed.container) == (holder.pod, holder.container)
        and pods.live(holder.uid) is not None
        and (not listed.uid or pods.live(listed.uid) is not None)
        and all(claim.claimant in slice_.named for claim in (listed, *checkpointed) if claim.uid)
    )


def _move(slice_: Slice, event: Event) -> Slice:
    phase = _TRANSITIONS.get((slice_.phase, event))
    used = slice_.user is not None and event in (Event.REMOVED, Event.DROPPED)
    if phase is None or used:
        state = f"{slice_.phase}{' and used' if used else ''}"
        raise IllegalStep(f"slice {slice_.id} is {state} and cannot be {event}")
    if event is Event.RESTORED and not slice_.shown:
        phase = Phase.CARVED
    shown = phase is not Phase.ABSENT and (slice_.shown or phase is Phase.BINDABLE)
    return replace(slice_, phase=phase, shown=shown)


def _allocated(slice_: Slice, at: float) -> Slice:
    if not slice_.stands:
        raise IllegalStep(f"slice {slice_.id} is {slice_.phase} and cannot be allocated")
    holder, superseded = slice_.holder, slice_.superseded
    if not slice_.asked:
        held = ((holder.uid, holder.container),) if holder is not None and holder.uid else ()
        superseded = _add(superseded, (*slice_.named, *held))
    known = (holder,) if holder is not None and holder.pod else ()
    return replace(
        slice_,
        holder=Holder(),
        since=at,
        asked=(*slice_.asked, at),
        earlier=tuple(dict.fromkeys((*slice_.earlier, *known))),
        superseded=superseded,
    )


def _told(slice_: Slice, told: Told) -> Slice:
    claims = (*told.checkpointed, *((told.listed,) if told.listed else ()))
    named = tuple(claim.claimant for claim in claims if claim.uid)
    slice_ = replace(slice_, named=_add(slice_.named, named))
    if not slice_.asked:
        return _replaced(slice_, told, _holder_at_rest(slice_, told))
    if told.at <= slice_.asked[-1]:
        return _replaced(slice_, told, slice_.holder)
    explained = _explanation(slice_, told)
    if explained is not None:
        slice_ = replace(slice_, asked=())
        if told.pods.hold(explained):
            return _replaced(slice_, told, explained)
        return _replaced(replace(slice_, earlier=(*slice_.earlier, explained)), told, None)
    if told.listed is not None:
        return _replaced(slice_, told, Holder(told.listed.pod, told.listed.container))
    holder = slice_.holder
    if holder and holder.pod and told.at > slice_.since and not told.pods.hold(holder):
        # It was listed after the Allocates, and is no longer.
        return _replaced(replace(slice_, asked=()), told, None)
    return _replaced(slice_, told, holder)


def _explanation(slice_: Slice, told: Told) -> Holder | None:
    """The container that the unexplained Allocates were for, when the evidence leaves no doubt.

    The kubelet asks once for each container, and the checkpoint may be older than the Allocates.
    But it cannot name as many new containers of one pod as there were Allocates unless all of them
    were for that pod.
    """
    if not told.complete:
        listed = told.listed
        if listed is None or listed.claimant in slice_.superseded:
            return None
        known = told.pods.live(listed.uid) is not None
        return Holder(listed.pod, listed.container, listed.uid) if known else None
    new_by_uid: dict[str, list[str]] = {}
    for claim in told.checkpointed:
        if claim.claimant not in slice_.superseded:
            new_by_uid.setdefault(claim.uid, []).append(claim.container)
    listed = told.listed
    for uid, containers in new_by_uid.items():
        pod = told.pods.live(uid)
        if pod is None and listed is None:  # the kubelet lists no pod that was deleted or has ended
            pod = told.departed.get(uid)
        if pod is not None and len(set(containers)) >= len(slice_.asked):
            shown = listed is not None and listed.pod == pod.key
            return Holder(pod.key, listed.container if listed and shown else containers[-1], uid)
    return None


def _holder_at_rest(slice_: Slice, told: Told) -> Holder | None:
    """The holder of a slice that nobody has asked for since the reading began.

    A listed pod that the API does not show is believed, because the kubelet lists active pods only;
    one that only the checkpoint names is not, because that is written before a pod is forgotten.
    """
    pods, holder, listed = told.pods, slice_.holder, told.listed
    if listed is not None and not listed.uid and holder and holder.uid and told.at <= slice_.since:
        listed = None  # the holder is known from this very reading, and so more of it
    if listed is not None and (not listed.uid or pods.live(listed.uid)):
        uid = "" if listed.claimant in slice_.superseded else listed.uid
        same = holder is not None and holder.pod == listed.pod and pods.live(holder.uid)
        return Holder(listed.pod, listed.container, holder.uid if holder and same else uid)
    if holder is not None and holder.uid and pods.hold(holder):
        return None if (holder.uid, holder.container) in told.elsewhere else holder
    for claim in reversed(told.checkpointed):
        pod = pods.live(claim.uid)
        if pod is not None and claim.claimant not in slice_.superseded:
            return Holder(pod.key, claim.container, pod.uid)
    if holder is None or not pods.hold(holder):
        return None
    # Another pod may have the name by now, so it makes no uid known.
    return None if (pods.uid_of(holder), holder.container) in told.elsewhere else holder


def _replaced(slice_: Slice, told: Told, holder: Holder | None) -> Slice:
    """The slice with this holder, and what is left of those before it."""
    before = slice_.earlier
    if slice_.holder is not None and slice_.holder.pod and slice_.holder not in before:
        before = (*before, slice_.holder)
    gone = tuple(each for each in before if _gave_up(each, holder, told))
    unseen = (each for each in gone if not (told.pods.stopped(each) or told.last.stopped(each)))
    open_ = bool(slice_.asked)
    return replace(
        slice_,
        holder=holder,
        since=slice_.since if holder == slice_.holder else told.at,
        earlier=tuple(e for e in slice_.earlier if e not in gone) if open_ else (),
        leftovers=tuple(dict.fromkeys((*slice_.leftovers, *unseen))),
    )


def _gave_up(holder: Holder, now: Holder | None, told: Told) -> bool:
    """Whether the pod has the slice no more. One that lives with another slice did not leave it."""
    if now is None or not now.pod:
        return not told.pods.hold(holder)
    if holder.pod != now.pod:
        return True
    # Of two pods of one name the second has the slice, once the first is gone or its uid is known.
    return bool(holder.uid) and (holder.uid != now.uid if now.uid else not told.pods.hold(holder))


def _add(known: tuple[Claimant, ...], more: Iterable[Claimant]) -> tuple[Claimant, ...]:
    new = tuple(claimant for claimant in dict.fromkeys(more) if claimant not in known)
    return (*known, *new)[-_REMEMBERED:] if new else known
