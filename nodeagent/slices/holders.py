"""Who holds which slice, out of evidence that is each incomplete on its own. Pure.

PodResources leaves out init containers and pods during admission; the kubelet's checkpoint keeps
pods that have ended; our own record of Allocates knows no pods. Pods as the API has them decide.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from mpslice.gpus import DeviceId
from nodeagent.slices.pods import PodFacts


@dataclass(frozen=True, slots=True)
class Claim:
    """One source says that a container holds a slice; `uid` or `pod` (namespace/name) is known."""

    id: DeviceId
    container: str
    pod: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slice; all empty while the kubelet has not yet said for whom it asked."""

    pod: str = ""
    container: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the kubelet said last: PodResources' List and its checkpoint."""

    listed: tuple[Claim, ...] = ()
    checkpointed: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Pods:
    """The slice pods of this node."""

    by_key: Mapping[str, PodFacts] = field(default_factory=dict)
    by_uid: Mapping[str, PodFacts] = field(default_factory=dict)

    @classmethod
    def of(cls, pods: Iterable[PodFacts]) -> "Pods":
        pods = tuple(pods)
        return cls({pod.key: pod for pod in pods}, {pod.uid: pod for pod in pods})

    @property
    def live_uids(self) -> frozenset[str]:
        return frozenset(uid for uid, pod in self.by_uid.items() if not pod.ended)

    def live(self, uid: str) -> PodFacts | None:
        pod = self.by_uid.get(uid)
        return pod if pod is not None and not pod.ended else None

    def hold(self, holder: Holder) -> bool:
        """Whether the holder is one of these, and has not ended."""
        named = self.by_key.get(holder.pod)
        uid = holder.uid or (named.uid if named is not None else "")
        return self.live(uid) is not None


def with_uids(listed: Iterable[Claim], pods: Pods) -> tuple[Claim, ...]:
    """PodResources knows names only; a claim keeps the uid that the name had when it was read.

    So the end of that pod ends the claim, even when another pod of its name has come since.
    """
    return tuple(Claim(c.id, c.container, c.pod, c.uid or _uid_of(c.pod, pods)) for c in listed)


def explained(evidence: Evidence, pods: Pods) -> dict[DeviceId, Holder]:
    """What the kubelet's own evidence says, for pods that have not ended.

    A listed pod that the API does not know is believed (the kubelet lists active pods only); one
    that only the checkpoint knows is not (it is written before the kubelet forgets a pod).
    """
    holders: dict[DeviceId, Holder] = {}
    for claim in evidence.checkpointed:
        pod = pods.live(claim.uid)
        if pod is not None:
            holders[claim.id] = Holder(pod.key, claim.container, pod.uid)
    for claim in evidence.listed:
        if not claim.uid or pods.live(claim.uid) is not None:
            holders[claim.id] = Holder(claim.pod, claim.container, claim.uid)
    return holders


def resolve(
    evidence: Evidence,
    remembered: Mapping[DeviceId, Holder],
    unexplained: Set[DeviceId],
    pods: Pods,
) -> dict[DeviceId, Holder]:
    """Every slice that is held.

    `remembered` are earlier results (and, after a restart, the NodeLayout's): they hold on while
    their pod lives and is not shown with another slice instead. `unexplained` are Allocates that
    no source has shown a pod for.
    """
    holders = explained(evidence, pods)
    shown = {(h.uid, h.container, device.size) for device, h in holders.items() if h.uid}
    for device, holder in remembered.items():
        uid = holder.uid or _uid_of(holder.pod, pods)
        if (
            device not in holders
            and pods.live(uid)
            and (uid, holder.container, device.size) not in shown
        ):
            holders[device] = Holder(holder.pod, holder.container, uid)
    for device in unexplained:
        holders.setdefault(device, Holder())
    return holders


def departed(
    before: Mapping[DeviceId, Holder], after: Mapping[DeviceId, Holder], pods: Pods, last: Pods
) -> dict[DeviceId, Holder]:
    """Who held a slice and holds it no more, though nobody has seen its containers end.

    So it is with a pod that is force-deleted: the kubelet gives its devices away at once, while its
    processes may run on for seconds. `last` are the pods as they were before those of `pods`.
    """
    return {
        device: holder
        for device, holder in before.items()
        if holder.pod
        and _gave_up(holder, after.get(device), pods)
        and not any(_has_stopped(holder, seen) for seen in (pods, last))
    }


def _gave_up(holder: Holder, now: Holder | None, pods: Pods) -> bool:
    if now is None or not now.pod:
        return pods.live(holder.uid or _uid_of(holder.pod, pods)) is None
    # Whoever has it now, the kubelet had it back: our word of the earlier pod's end is on its way.
    return holder.pod != now.pod or bool(holder.uid and holder.uid != now.uid)


def _has_stopped(holder: Holder, pods: Pods) -> bool:
    pod = pods.by_uid.get(holder.uid or _uid_of(holder.pod, pods))
    return pod is not None and pod.stopped


def _uid_of(key: str, pods: Pods) -> str:
    pod = pods.by_key.get(key)
    return pod.uid if pod else ""
