"""What the kubelet and the API say of the holders of slices; each source is incomplete. Pure.

PodResources leaves out init containers and knows no uids; the kubelet's checkpoint keeps pods that
have ended and may be an older one; the API's view of the pods may be late.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from mpslice.gpus import DeviceId
from nodeagent.slices.pods import PodFacts

Claimant = tuple[str, str]
"""The uid of a pod, and one of its containers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One source says that a container holds a slice; `uid` or `pod` (namespace/name) is known."""

    id: DeviceId
    container: str
    pod: str = ""
    uid: str = ""

    @property
    def claimant(self) -> Claimant:
        return (self.uid, self.container)


@dataclass(frozen=True, slots=True)
class Holder:
    """The container that holds a slice; all empty while it is not known which one it is."""

    pod: str = ""
    container: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Pods:
    """The slice pods of this node, as the API showed them last."""

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

    def uid_of(self, holder: Holder | Claim) -> str:
        """The holder's uid, or the one that its pod's name has now; "" where neither is known."""
        named = None if holder.uid else self.by_key.get(holder.pod)
        return named.uid if named is not None else holder.uid

    def hold(self, holder: Holder) -> bool:
        """Whether the holder is one of these, and has not ended."""
        return self.live(self.uid_of(holder)) is not None

    def stopped(self, holder: Holder) -> bool:
        """Whether the kubelet has seen all containers of the holder's pod end."""
        pod = self.by_uid.get(self.uid_of(holder))
        return pod is not None and pod.stopped


@dataclass(frozen=True)
class Reading:
    """PodResources' List and the checkpoint, read one after the other.

    `at` is when the reading began, in monotonic seconds. `complete` says that there was a
    checkpoint to read. `foreign` are the uids of pods with slices of another plugin.
    """

    at: float = 0.0
    listed: tuple[Claim, ...] = ()
    checkpointed: tuple[Claim, ...] = ()
    complete: bool = False
    foreign: frozenset[str] = frozenset()

    def with_uids(self, pods: Pods) -> "Reading":
        """A listed claim has the uid that its pod's name had when the reading began.

        So the end of that pod ends the claim, even when another pod of its name has come since.
        """
        return replace(
            self, listed=tuple(replace(claim, uid=pods.uid_of(claim)) for claim in self.listed)
        )

    @property
    def has_strangers(self) -> bool:
        """Whether a pod is listed that the API did not show: not yet, or no more."""
        return not all(claim.uid for claim in self.listed)

    def shows(self, pod: PodFacts) -> bool:
        """Whether the kubelet has shown a slice for each container of the pod that needs one."""
        claims = (*self.listed, *self.checkpointed)
        shown = {(c.container, c.id.size) for c in claims if c.uid == pod.uid}
        return all((need.container, need.size) in shown for need in pod.needs)

    @cached_property
    def by_id(self) -> Mapping[DeviceId, tuple[Claim | None, tuple[Claim, ...]]]:
        """The listed claim of each slice that any source names, and the checkpoint's claims."""
        listed = {claim.id: claim for claim in self.listed}
        checkpointed: dict[DeviceId, tuple[Claim, ...]] = {}
        for claim in self.checkpointed:
            checkpointed[claim.id] = (*checkpointed.get(claim.id, ()), claim)
        return {
            id_: (listed.get(id_), checkpointed.get(id_, ()))
            for id_ in listed.keys() | checkpointed.keys()
        }
