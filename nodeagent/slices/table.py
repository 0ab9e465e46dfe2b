"""The table of this node's slices: one record each, which only `record.step` changes.

The device plugin, the layouts and the reports share it. It changes only between awaits, so each
reader sees a whole layout.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from time import monotonic
from types import MappingProxyType
from typing import Final

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.hardware import Gpu
from nodeagent.pulse import Pulse
from nodeagent.slices.evidence import Claimant, Holder, Pods, Reading
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.record import (
    Allocated,
    Awaited,
    Event,
    Forgotten,
    Phase,
    Remembered,
    Slice,
    Step,
    Told,
    Vacated,
    is_settled,
    step,
)

_DEPARTED: Final = 256
"""Pods that are remembered after they left: a checkpoint may name them until the next is written,
and a node runs 110 at most by the kubelet's default."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One device of a ListAndWatch list."""

    id: DeviceId
    healthy: bool
    numa_node: int | None = None


class SliceTable:
    """`changed` beats when the kubelet's list may differ, `held` when a holder is another.

    `holders` are all slices that are in use as far as is known, those included whose pod is gone
    while its processes may not be. `gpus` are the GPUs as they are judged now.
    """

    def __init__(self, gpus: Sequence[Gpu], pods: Callable[[], Pods] = Pods) -> None:
        self.changed = Pulse()
        self.held = Pulse()
        self.pods = pods
        self.reading = Reading()
        self._last_pods = Pods()
        self._departed: dict[str, tuple[float, PodFacts]] = {}
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._records: dict[DeviceId, Slice] = {}
        self._holders: dict[DeviceId, Holder] = {}
        self._sizes: set[SliceSize] = set()
        self._ordered: tuple[DeviceId, ...] | None = ()
        self._by_gpu: dict[GpuUuid, tuple[DeviceId, ...]] = {}
        self.gpus: Mapping[GpuUuid, Gpu] = MappingProxyType(self._gpus)
        self.holders: Mapping[DeviceId, Holder] = MappingProxyType(self._holders)

    def put_gpus(self, gpus: Sequence[Gpu]) -> None:
        """Replaces what is known of the GPUs. Slices that were lost return, if they are in use."""
        self._gpus.clear()
        self._gpus.update({gpu.uuid: gpu for gpu in gpus})
        for record in [r for r in self._records.values() if r.phase is Phase.LOST]:
            if record.id.gpu in self._gpus:
                self._move([record.id], Event.ADOPTED if record.user else Event.DROPPED)
        self._ordered = None
        self.changed.beat()

    # The way of a slice in and out.

    def carve(self, ids: Iterable[DeviceId]) -> None:
        """These stand from now on; the kubelet is told of them."""
        self._move(ids, Event.CARVED)

    def adopt(self, ids: Iterable[DeviceId]) -> None:
        """An earlier agent carved these; those that stand already stay as they are."""
        self._move((id_ for id_ in ids if id_ not in self), Event.ADOPTED)

    def miss(self, ids: Iterable[DeviceId]) -> None:
        """So it did with these, and their GPUs do not show."""
        self._move(ids, Event.MISSED)

    def confirm(self, ids: Iterable[DeviceId]) -> None:
        """The kubelet has shown these."""
        new = [id_ for id_ in ids if self.get(id_).phase is Phase.CARVED]
        self._put(step(self.get(id_), Event.SHOWN) for id_ in new)

    def close(self, ids: Iterable[DeviceId]) -> None:
        """The scheduler is to choose these no more."""
        self._put(step(self.get(id_), Event.CLOSED) for id_ in ids)

    def retire(self, ids: Iterable[DeviceId]) -> None:
        """The kubelet is to choose these no more either."""
        self._move(ids, Event.RETIRED)

    def restore(self, ids: Iterable[DeviceId]) -> None:
        """These stay after all."""
        self._move(ids, Event.RESTORED)

    def remove(self, ids: Iterable[DeviceId]) -> None:
        """These stand no more; raises IllegalStep for one that is in use."""
        self._move(ids, Event.REMOVED)

    def _move(self, ids: Iterable[DeviceId], event: Event) -> None:
        moved = [step(self.get(id_), event) for id_ in ids]
        if moved:
            self._put(moved)
            self._sizes.update(record.id.size for record in moved if record.stands)
            self._ordered = None
            self.changed.beat()

    def rest(self, ids: Iterable[DeviceId], until: float) -> None:
        """The withdrawal of these is not tried again before then, in monotonic seconds."""
        self._apply({id_: Awaited(until) for id_ in ids if id_ in self})

    # Who holds a slice.

    def allocate(self, ids: Iterable[DeviceId]) -> None:
        """The kubelet was just given these; they are held from now on."""
        self._apply({id_: Allocated(monotonic()) for id_ in ids})

    def remember(self, holders: Mapping[DeviceId, Holder]) -> None:
        """The holders that an earlier agent reported, by the names that their pods have now."""
        self._apply({id_: Remembered(h, monotonic()) for id_, h in holders.items()})
        self.judge()

    def vacate(self, vacated: Mapping[DeviceId, tuple[Holder, ...]]) -> None:
        """No process is left of these earlier holders."""
        if self._apply({id_: Vacated(holders) for id_, holders in vacated.items()}):
            self.held.beat()

    def read(self, reading: Reading) -> None:
        """There is newer evidence."""
        self.reading = reading
        self.judge()

    def judge(self) -> None:
        """Judges the evidence by the pods as they are now."""
        pods = self.pods()
        self._note_departed(pods)
        open_ = (r.id for r in self._records.values() if r.holder or r.asked)
        changed = self._apply(dict(self._told({*open_, *self.reading.by_id}, pods)))
        self._last_pods = pods
        if changed:
            self.held.beat()

    def _note_departed(self, pods: Pods) -> None:
        now = monotonic()
        for uid in self._last_pods.live_uids - pods.live_uids:
            self._departed[uid] = (now, self._last_pods.by_uid[uid])
        for uid in list(self._departed)[:-_DEPARTED]:
            del self._departed[uid]

    def _departed_since(self, then: float) -> dict[str, PodFacts]:
        return {uid: pod for uid, (at, pod) in self._departed.items() if at > then}

    def forget(self, before: float) -> tuple[DeviceId, ...]:
        """The slices whose Allocates are older and remain unexplained; nobody holds those.

        Unless a pod lives here that nobody shows with its slice, or whose slice it was before.
        """
        pods = self.pods()
        old = [r for r in self._records.values() if r.asked and r.asked[-1] < before]
        due = {r.id for r in old if not self._may_be_held(r, pods)}
        told = {id_: Forgotten(told) for id_, told in self._told(due, pods)}
        if self._apply(dict(told)):
            self.held.beat()
        return tuple(id_ for id_ in due if self.get(id_).holder is None)

    def _may_be_held(self, record: Slice, pods: Pods) -> bool:
        return any(pods.live(holder.uid) for holder in record.earlier) or any(
            pod.admitted
            and not pod.ended
            and pod.needs_any((record.id.size,))
            and not self.reading.shows(pod)
            for pod in pods.by_uid.values()
        )

    def _told(self, ids: Iterable[DeviceId], pods: Pods) -> Iterator[tuple[DeviceId, Told]]:
        reading = self.reading
        ids = [
            id_
            for id_ in ids
            if not is_settled(self.get(id_), *reading.by_id.get(id_, (None, ())), pods)
        ]
        if not ids:
            return
        shown: dict[tuple[Claimant, SliceSize], set[DeviceId]] = {}
        for id_, (listed, checkpointed) in reading.by_id.items():
            # The uid of a listed pod is by its name, and so not certain after an Allocate.
            sure = listed is not None and not self.get(id_).asked
            for claim in (*checkpointed, *((listed,) if listed and sure else ())):
                shown.setdefault((claim.claimant, id_.size), set()).add(id_)
        for id_ in ids:
            listed, checkpointed = reading.by_id.get(id_, (None, ()))
            record = self.get(id_)
            holder = record.holder
            claimant = (pods.uid_of(holder), holder.container) if holder else ("", "")
            places = shown.get((claimant, id_.size), {id_})
            elsewhere = frozenset() if id_ in places else frozenset({claimant})
            yield (
                id_,
                Told(
                    reading.at,
                    listed,
                    checkpointed,
                    reading.complete,
                    elsewhere,
                    pods,
                    self._last_pods,
                    self._departed_since(record.asked[-1]) if record.asked else {},
                ),
            )

    def _apply(self, events: Mapping[DeviceId, Step]) -> bool:
        """Whether a holder is another one after these, the earlier ones included."""
        before = [self.get(id_) for id_ in events]
        after = [step(record, events[record.id]) for record in before]
        self._put(after)
        return [(r.user, r.leftovers) for r in before] != [(r.user, r.leftovers) for r in after]

    def _put(self, records: Iterable[Slice]) -> None:
        for record in records:
            if record.blank:
                self._records.pop(record.id, None)
            else:
                self._records[record.id] = record
            if record.user is None:
                self._holders.pop(record.id, None)
            else:
                self._holders[record.id] = record.user

    # What others see of it.

    def get(self, id_: DeviceId) -> Slice:
        """The record of a slice; one that is Absent where there is none."""
        return self._records.get(id_) or Slice(id_)

    def __contains__(self, id_: object) -> bool:
        record = self._records.get(id_) if isinstance(id_, DeviceId) else None
        return record is not None and record.stands

    @property
    def slices(self) -> tuple[DeviceId, ...]:
        """All that stand, by GPU index, size and ordinal."""
        if self._ordered is None:  # hundreds of slices, asked for several times a change
            standing = (record.id for record in self._records.values() if record.stands)
            self._ordered = tuple(sorted(standing, key=self._order))
            by_gpu = groupby(self._ordered, key=attrgetter("gpu"))
            self._by_gpu = {uuid: tuple(ids) for uuid, ids in by_gpu}
        return self._ordered

    @property
    def sizes(self) -> frozenset[SliceSize]:
        """Every size that this process has served; one without slices keeps an empty list."""
        return frozenset(self._sizes)

    def forget_empty_sizes(self) -> None:
        """Sizes without slices are served no longer."""
        self._sizes.intersection_update({id_.size for id_ in self.slices})

    @property
    def unexplained(self) -> bool:
        """Whether evidence is wanted: of an Allocate, or of a pod that the API does not show."""
        return self.reading.has_strangers or any(r.asked for r in self._records.values())

    @property
    def leftovers(self) -> dict[DeviceId, tuple[Holder, ...]]:
        """The earlier holders whose processes may still use a slice."""
        return {r.id: r.leftovers for r in self._records.values() if r.leftovers}

    def is_bindable(self, id_: DeviceId) -> bool:
        """Whether the kubelet has shown that it knows the slice."""
        return self.get(id_).shown and id_ in self

    def is_offered(self, id_: DeviceId) -> bool:
        """Whether the kubelet is told that the slice is healthy."""
        gpu = self._gpus.get(id_.gpu)
        works = gpu is not None and gpu.works
        return works and id_ in self and self.get(id_).phase is not Phase.RETIRED

    def is_open(self, id_: DeviceId) -> bool:
        """Whether the scheduler may count on the slice."""
        return self.get(id_).phase is Phase.BINDABLE and self.is_offered(id_)

    def is_closing(self, id_: DeviceId) -> bool:
        """Whether the slice is on its way out."""
        return self.get(id_).phase in (Phase.CLOSED, Phase.RETIRED)

    def resting(self, now: float) -> dict[DeviceId, float]:
        """The slices whose withdrawal waited for pods in vain, each with the monotonic time of its
        next attempt."""
        return {r.id: r.rests_until for r in self._records.values() if r.rests_until > now}

    def on_gpu(self, uuid: GpuUuid) -> tuple[DeviceId, ...]:
        return self._by_gpu.get(uuid, ()) if self.slices else ()

    def devices(self, size: SliceSize) -> tuple[Listed, ...]:
        """The list of one size as the kubelet gets it."""
        return tuple(self._listed(id_) for id_ in self.slices if id_.size == size)

    def _listed(self, id_: DeviceId) -> Listed:
        gpu = self._gpus.get(id_.gpu)
        return Listed(id_, self.is_offered(id_), gpu.numa_node if gpu else None)

    def _order(self, id_: DeviceId) -> tuple[int, str, int, int]:
        gpu = self._gpus.get(id_.gpu)
        return (gpu.index if gpu else len(self._gpus), id_.gpu, id_.size, id_.ordinal)
