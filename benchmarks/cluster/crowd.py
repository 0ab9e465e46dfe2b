"""The pods of a run: made through the API, and seen by one watch, which tells when what happened.

All moments are the watch's own, so that its delay is in each of them and in no difference.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.cluster.kubelets import LIFETIME
from benchmarks.cluster.load import Life
from benchmarks.cluster.stand import BASELINE
from mpslice.kube.api import EVENTS, PODS, Json, Kube
from mpslice.kube.errors import NotFound
from mpslice.kube.reflector import Change, Reflector
from mpslice.kube.session import Session
from planner.model.pods import GATE
from planner.words.condition import AVAILABLE

NAMESPACE: Final = "default"
_AT_ONCE: Final = 32
"""Requests of ours at the same time: more would only wait in the API server."""


@dataclass(slots=True)
class Moments:
    """Of one pod, in monotonic seconds; None for what has not happened. `gb` is its slice's."""

    gb: int = 0
    sent: float | None = None
    created: float | None = None
    carved: float | None = None
    bound: float | None = None
    ended: float | None = None
    told: float | None = None
    refused: float | None = None
    node: str = ""

    @property
    def had_room(self) -> bool:
        """Whether its gate went because its slice was there: else the pod was told why it waits."""
        return self.bound is not None and (self.told is None or self.told > self.bound)

    def waited(self, until: str, since: str = "created") -> float | None:
        """Seconds from its creation, or from when it was `sent` to be created."""
        begun, at = getattr(self, since), getattr(self, until)
        return None if at is None or begun is None else max(0.0, at - begun)


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a pod, as it was last seen."""

    gated: bool
    node: str
    phase: str
    told: bool


def project(pod: Json) -> Seen:
    """What of a pod is measured."""
    spec, status = pod["spec"], pod.get("status") or {}
    conditions = status.get("conditions") or ()
    return Seen(
        any(gate["name"] == GATE for gate in spec.get("schedulingGates") or ()),
        spec.get("nodeName") or "",
        status.get("phase") or "",
        any(_says_why(condition) for condition in conditions),
    )


def _says_why(condition: Json) -> bool:
    """Whether it says why a pod has no place; that its slices are being made is no reason."""
    unavailable = condition["type"] == AVAILABLE and condition["status"] == "False"
    return bool(unavailable and condition["reason"] != "Carving")


@dataclass(slots=True)
class Crowd:
    """`pods` by name. Pods that have ended are deleted, as a Job's controller would."""

    kube: Session
    pods: dict[str, Moments] = field(default_factory=dict)
    harmed: list[str] = field(default_factory=list)
    """Pods that failed, or were deleted by somebody else while they ran."""
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _removing: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def saw(self, change: Change[Seen]) -> None:
        """The watch of pods has shown something."""
        now, name = time.monotonic(), change.key.partition("/")[2]
        pod, new = self.pods.setdefault(name, Moments()), change.new
        self._changed.set()
        if pod.created is None:
            pod.created = now
        if new is None:
            if pod.ended is None and name not in self._removing:
                self.harmed.append(name)
            pod.ended = pod.ended or now
            return
        if not new.gated and pod.carved is None:
            pod.carved = now
        if new.node and pod.bound is None:
            pod.bound, pod.node = now, new.node
        if new.told and pod.told is None:
            pod.told = now
        if new.phase in ("Succeeded", "Failed") and pod.ended is None:
            pod.ended = now
            if new.phase == "Failed":
                self.harmed.append(name)
            self._removing[name] = asyncio.create_task(self._remove(name))

    def heard(self, change: Change[str]) -> None:
        """An Event has said why a pod waits."""
        if change.new:
            pod = self.pods.setdefault(change.new, Moments())
            pod.told = pod.told or time.monotonic()
            self._changed.set()

    async def create(self, name: str, body: Json, gb: int = 0) -> float:
        """Makes a pod; returns how many seconds the API server took, its admission included."""
        pod = self.pods.setdefault(name, Moments())
        pod.gb = gb
        async with self._turn:
            pod.sent = began = time.monotonic()
            await self.kube.create(PODS, body, namespace=NAMESPACE)
            return time.monotonic() - began

    async def _remove(self, name: str, grace_seconds: int = 0) -> None:
        async with self._turn:
            try:
                await self.kube.delete(PODS, name, namespace=NAMESPACE, grace_seconds=grace_seconds)
            except NotFound:
                return

    async def remove(self, *names: str, grace_seconds: int = 1) -> None:
        """Deletes pods in good order, or at once where no kubelet has them; returns when they are
        gone."""
        for name in names:
            if name not in self._removing:
                work = self._remove(name, grace_seconds)
                self._removing[name] = asyncio.create_task(work)
        await self.until(lambda: all(self.pods[n].ended for n in names), 120, "pods are gone")

    async def until(self, true: Callable[[], bool], seconds: float, what: str) -> bool:
        """Waits until it is true; False, and a word about it, when it is not within so long."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            print(f"not within {seconds:.0f} s: {what}", flush=True)
            return False
        return True

    async def settled(self) -> None:
        """Returns once what has ended is deleted."""
        while any(not task.done() for task in self._removing.values()):
            await asyncio.wait([task for task in self._removing.values() if not task.done()])


@asynccontextmanager
async def crowd(kube: Session) -> AsyncIterator[Crowd]:
    """A crowd that is watched while inside."""
    people = Crowd(kube)
    following = [
        asyncio.create_task(work.run())
        for work in (
            Reflector(kube, PODS, project, people.saw, namespace=NAMESPACE),
            _events(kube, people.heard),
        )
    ]
    try:
        yield people
        await people.settled()
    finally:
        for task in following:
            task.cancel()
        await asyncio.wait(following)


def _events(kube: Kube, heard: Callable[[Change[str]], None]) -> Reflector[str]:
    def about(event: Json) -> str:
        return str(event["involvedObject"].get("name", ""))

    return Reflector(
        kube, EVENTS, about, heard, namespace=NAMESPACE, field_selector="reason=SliceUnavailable"
    )


def _pod(name: str, resources: dict[str, str], seconds: float | None, **spec: Any) -> Json:
    annotations = {} if seconds is None else {LIFETIME: f"{seconds:.2f}"}
    main = {
        "name": "main",
        "image": "none",
        "resources": {"limits": resources, "requests": resources},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "containers": [main],
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            **spec,
        },
    }  # fmt: skip


def slice_pod(name: str, life: Life, *, forever: bool = False, node: str = "") -> Json:
    """A pod as the trace has them, which has to come to `node` if that is given."""
    resources = {
        f"nvidia.com/gpu-{life.gb}gb": "1",
        "cpu": f"{life.cpu_milli}m",
        "memory": f"{life.memory_mib}Mi",
    }
    selector = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return _pod(name, resources, None if forever else life.seconds, **selector)


def plain_pod(name: str) -> Json:
    """A pod that the scheduler alone binds: it asks for a resource that is always there."""
    return _pod(name, {BASELINE: "1"}, None)
