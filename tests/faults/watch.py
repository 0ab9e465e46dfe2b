"""What the API shows in a run: moments for faults to begin at, and what must hold at its end."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, list_all
from mpslice.kube.reflector import Change, Reflector
from mpslice.slices import parse_resource
from planner.model.plan import Cause
from planner.model.pods import GATE
from planner.words.condition import AVAILABLE
from tests.faults.kubelet import Kubelet
from tests.faults.script import Moment
from tests.faults.stand import NODES_GPUS, NodeParts, Stand, uuid_of

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a pod. `reason` says why it waits, "" where it has not been told."""

    gb: int
    gated: bool
    node: str
    phase: str
    reason: str
    message: str
    deleting: bool

    @property
    def waits(self) -> bool:
        return not self.node and not self.deleting


def project(pod: Json) -> Seen:
    """What of a pod is looked at."""
    spec, status = pod["spec"], pod.get("status") or {}
    (limits,) = (each["resources"]["limits"] for each in spec["containers"])
    (size,) = (size for size in map(parse_resource, limits) if size is not None)
    conditions = status.get("conditions") or ()
    said: Json = next((each for each in conditions if each["type"] == AVAILABLE), {})
    return Seen(
        gb=int(size),
        gated=any(gate["name"] == GATE for gate in spec.get("schedulingGates") or ()),
        node=spec.get("nodeName") or "",
        phase=status.get("phase") or "",
        reason=said.get("reason", "") if said.get("status") == "False" else "",
        message=said.get("message", ""),
        deleting="deletionTimestamp" in pod["metadata"],
    )


class Watch:
    """`pods` by name, as last seen; `on_end` hears of a pod that has ended."""

    def __init__(self, stand: Stand, tell: Callable[[str], None]) -> None:
        self.pods: dict[str, Seen] = {}
        self.on_end: Callable[[str], None] = lambda _name: None
        self._stand, self._tell = stand, tell
        self._counts: Counter[Moment] = Counter()
        self._happened = asyncio.Event()
        self._reflectors = (
            Reflector(stand.kube, PODS, project, self._pod, namespace="default"),
            Reflector(stand.kube, NODE_LAYOUTS, _layout, self._layout),
        )

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[None]:
        """Watches while inside."""
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(each.run()) for each in self._reflectors]
            for each in self._reflectors:
                await each.synced.wait()
            yield
            for task in following:
                task.cancel()

    async def next(self, moment: Moment, seconds: float) -> bool:
        """Waits for the next one; False when there is none in so many seconds."""
        if moment is Moment.ANY:
            return True
        before, end = self._counts[moment], time.monotonic() + seconds
        while self._counts[moment] == before:
            self._happened.clear()
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    await self._happened.wait()
            except TimeoutError:
                return False
        return True

    def _is_now(self, moment: Moment, text: str) -> None:
        self._counts[moment] += 1
        self._happened.set()
        self._tell(f"{moment}: {text}")

    def _pod(self, change: Change[Seen]) -> None:
        name, old, new = change.key.partition("/")[2], change.old, change.new
        if new is None:
            del self.pods[name]
            return
        self.pods[name] = new
        if old is None:
            self._is_now(Moment.MADE, f"{name}, {new.gb}gb")
        if not new.gated and (old is None or old.gated):
            self._is_now(Moment.UNGATED, f"{name} {new.reason}")
        if new.node and not (old and old.node):
            self._is_now(Moment.BOUND, f"{name} on {new.node}")
        if new.phase == "Running" and not (old and old.phase == "Running"):
            self._is_now(Moment.RUNS, name)
        if new.phase in _ENDED and not (old and old.phase in _ENDED):
            self._is_now(Moment.ENDED, f"{name} {new.phase}")
            self.on_end(name)

    def _layout(self, change: Change[tuple[str, str]]) -> None:
        old, new = change.old or ("", ""), change.new or ("", "")
        if old[0] != new[0]:
            self._is_now(Moment.ORDERED, f"{change.key} {new[0]}")
        if old[1] != new[1]:
            self._is_now(Moment.CARVED, f"{change.key} {new[1]}")

    # What must hold.

    def misplaced(self) -> str:
        """Why not everything is placed that fits, and told why that does not; "" when it is."""
        for name, pod in self.pods.items():
            if pod.waits:
                fits = [node.name for node in self._stand.nodes if _has_room(node, pod.gb)]
                if fits and pod.reason != Cause.RESERVED:
                    return f"{name} ({pod.gb}gb) fits {fits[0]} and waits: {pod}"
                if not pod.gated and not pod.reason:
                    return f"{name} has no gate and no place, and nobody has said why"
            elif pod.phase not in ("Running", *_ENDED) or pod.deleting:
                return f"{name} is bound and neither runs nor ends: {pod}"
        return ""

    async def untrue(self) -> str:
        """Where the API shows something else than a kubelet has; "" where it does not."""
        layouts = {
            each["metadata"]["name"]: each
            for each in await list_all(self._stand.kube, NODE_LAYOUTS)
        }
        nodes = {each["metadata"]["name"]: each for each in await list_all(self._stand.kube, NODES)}
        for node in self._stand.nodes:
            layout = layouts.get(node.name)
            if layout is None or node.name not in nodes:
                return f"{node.name} or its NodeLayout is not there"
            status = layout.get("status") or {}
            if status.get("observedGeneration") != layout["metadata"]["generation"]:
                return f"NodeLayout {node.name} is not acknowledged: {status.get('conditions')}"
            wrong = _of_slices(node.kubelet, status) or _of_counts(node.kubelet, nodes[node.name])
            if wrong:
                return f"{node.name}: {wrong}"
        return ""

    def ended_by_themselves(self) -> str:
        """Which of our programs has ended though nobody ended it, "" when none has."""
        ended = [program for program in self._stand.ours if not program.running]
        return f"{ended[0].name} has ended: {ended[0].last_lines()}" if ended else ""


def _of_slices(kubelet: Kubelet, status: Json) -> str:
    """Where a NodeLayout's status shows other slices than the kubelet has; "" where it does not."""
    slices = [each for gpu in status.get("gpus") or () for each in gpu.get("slices") or ()]
    shown = sorted(each["id"] for each in slices)
    offered = sorted(map(str, kubelet.offered()))
    if shown != offered:
        return f"its NodeLayout shows {shown}, its plugin offers {offered}"
    used = sorted(each["id"] for each in slices if each.get("state") == "Used")
    has = sorted(map(str, kubelet.claims))
    if used != has:
        return f"its NodeLayout shows as used {used}, pods have {has}"
    hidden = sorted(map(str, kubelet.hidden()))
    return f"its plugin hides {hidden}, and every GPU is well" if hidden else ""


def _of_counts(kubelet: Kubelet, node: Json) -> str:
    """Where a node's allocatable shows other counts than the kubelet's; "" where it does not."""
    shown = _shown(node)
    offered = Counter(int(id_.size) for id_ in kubelet.offered())
    if shown != offered:
        return f"the node shows {dict(shown)}, its plugin offers {dict(offered)}"
    return ""


def _layout(layout: Json) -> tuple[str, str]:
    """What is wanted and what there is, in words."""
    wanted = {gpu["uuid"]: gpu["slices"] for gpu in layout["spec"].get("gpus") or ()}
    there = [
        f"{each['id']} {each.get('state')}"
        for gpu in (layout.get("status") or {}).get("gpus") or ()
        for each in gpu.get("slices") or ()
    ]
    return str(wanted), str(there)


def _has_room(node: NodeParts, gb: int) -> bool:
    rooms = {uuid_of(node.name, n): capacity for n, capacity in enumerate(NODES_GPUS[node.name])}
    for id_ in node.kubelet.claims:
        rooms[id_.gpu] -= id_.size
    return max(rooms.values()) >= gb


def _shown(node: Json) -> Counter[int]:
    """The slices in the node's allocatable, by size."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    sizes = (
        (parse_resource(name), int(count)) for name, count in allocatable.items() if "/gpu-" in name
    )
    return Counter({int(size): count for size, count in sizes if size is not None and count})
