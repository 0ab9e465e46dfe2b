"""Reads what the person may see of the cluster, and has the planner decide where that is enough.

Each kind is listed by itself; a kind that answers 403 is named, and the others are shown. The
planner decides only where everything that it needs is seen: with half of the pods its reasons would
be wrong.
"""

import asyncio
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from cli.errors import UnusableInput
from cli.reading.installed import read_installed
from cli.rights import Denied, denied
from mpslice.errors import MpsliceError
from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Json, Kube, Resource
from mpslice.kube.errors import Forbidden, NotFound
from mpslice.kube.reflector import Change, Reflector, key_of
from mpslice.nodelayout import NodeLayout, parse_node_layout
from planner.decide import decide
from planner.model.constraints import NodeTerm
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.progress.note import read_note
from planner.state.absence import Absences
from planner.state.parse import Labels, parse_namespace, parse_node, parse_pod, parse_terms
from planner.state.podgroups import POD_GROUPS, minimum_of
from planner.state.volumes import CLAIMS, VOLUMES, Claim, resolve
from planner.view import Decision, View

T = TypeVar("T")
Label = tuple[str, str]

SETTLE: Final = 0.2
"""Seconds in which changes are gathered before the picture is drawn again."""

_PAGE: Final = "500"
_NOT_INSTALLED: Final = "the cluster knows no NodeLayouts; install mpslice's chart there first"
_MALFORMED: Final = (MpsliceError, AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the person sees; None for kinds that may not be listed.

    `namespace` is where the pods are from, "" for all namespaces. `unreadable` are NodeLayouts that
    cannot be parsed, with the error.
    """

    label: Label
    now: datetime
    pods: tuple[Pod, ...] | None
    nodes: tuple[Node, ...] | None
    layouts: Mapping[str, NodeLayout] | None
    namespace: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    minimums: Mapping[str, int] = field(default_factory=dict)
    lacking: tuple[Denied, ...] = ()
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU

    @property
    def complete(self) -> bool:
        """Whether everything that the planner needs is seen."""
        nothing = None in (self.pods, self.nodes, self.layouts)
        return not nothing and not self.namespace

    @property
    def labelled(self) -> tuple[Node, ...]:
        """The nodes that are handed over to mpslice, as far as nodes are seen."""
        key, value = self.label
        return tuple(node for node in self.nodes or () if node.labels.get(key) == value)


def judged(observed: Observed) -> Decision | None:
    """Returns the planner's own decision on what is seen; None where that is too little."""
    if not observed.complete:
        return None
    layouts = dict(observed.layouts or {})
    # One look does not show how long something has lasted, so everything counts.
    away = Absences(patience=0.0).watch(observed.labelled, layouts, 0.0)
    pods, preempting = _preempting(observed.pods or ())
    return decide(
        View(
            nodes=observed.nodes or (),
            layouts=layouts,
            pods=pods,
            label=observed.label,
            away=away,
            unreadable=observed.unreadable,
            minimums=observed.minimums,
            now=observed.now,
            namespaces=observed.namespaces,
            max_slices_per_gpu=observed.max_slices_per_gpu,
            preemption=preempting,
        )
    )


def _preempting(pods: tuple[Pod, ...]) -> tuple[tuple[Pod, ...], bool]:
    """The pods, and whether one of them preempts: its annotation says so. Nobody else begins to
    here, where it is not known whether the planner may evict pods.
    """
    begun = {
        pod.uid
        for pod in pods
        if pod.is_pending and read_note(pod.progress).progress.preempting is not None
    }
    if not begun:
        return pods, False
    return tuple(p if p.uid in begun else replace(p, preempts=False) for p in pods), True


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    resource: Resource
    project: Callable[[Json], T | None]
    namespace: str | None = None


class Observer:
    """Reads the cluster. `namespace` is where pods are looked for when not all may be listed.

    `max_slices_per_gpu` is the planner's setting.
    """

    def __init__(
        self,
        kube: Kube,
        label: Label,
        namespace: str,
        *,
        max_slices_per_gpu: int = MAX_SLICES_PER_GPU,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._label = label
        self._fallback = namespace
        self._max_slices_per_gpu = max_slices_per_gpu
        self._clock = clock
        self._lacking: dict[Denied, None] = {}
        self._pods_from: str | None = None
        self._groups: bool | None = None
        self._changed = asyncio.Event()

    def nudge(self) -> None:
        """Makes `follow` yield again although nothing changed."""
        self._changed.set()

    async def look(self) -> Observed:
        """Reads the cluster; raises a KubeError, UnusableInput where mpslice is not installed."""
        layouts, nodes, namespaces, pods, groups = await asyncio.gather(
            self._list(_LAYOUTS),
            self._list(_Kind(NODES, _node)),
            self._list(_Kind(NAMESPACES, parse_namespace)),
            self._pods(),
            self._minimums(),
        )
        return await self._observed(layouts, nodes, namespaces, pods, groups)

    async def follow(self) -> AsyncGenerator[Observed, None]:
        """Yields what is seen now, and again after every change, until the caller ends it."""
        yield await self.look()  # says in one sentence what is wrong; a reflector would try again
        kinds: dict[str, _Kind[Any]] = {
            "layouts": _LAYOUTS,
            "nodes": _Kind(NODES, _node),
            "namespaces": _Kind(NAMESPACES, parse_namespace),
            "pods": _Kind(PODS, _pod, self._pods_from or None),
            "groups": _Kind(POD_GROUPS, minimum_of),
        }
        missing = {(each.right.resource, each.right.namespace) for each in self._lacking}
        changed = self._changed

        def on_change(_change: Change[Any]) -> None:
            changed.set()

        followed: dict[str, Reflector[Any]] = {
            name: Reflector(
                self._kube, kind.resource, kind.project, on_change, namespace=kind.namespace
            )
            for name, kind in kinds.items()
            if (_name(kind.resource), kind.namespace or "") not in missing
            and not (name == "groups" and not self._groups)
        }
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in followed.values()]
            try:
                for each in followed.values():
                    await each.synced.wait()
                while True:
                    changed.clear()
                    seen = {
                        name: dict(followed[name].objects) if name in followed else None
                        for name in kinds
                    }
                    yield await self._observed(*seen.values())
                    await changed.wait()
                    await asyncio.sleep(SETTLE)
            except GeneratorExit:
                return  # a TaskGroup would make an ExceptionGroup of it
            finally:
                for task in running:
                    task.cancel()

    async def _observed(
        self,
        layouts: Mapping[str, NodeLayout | str] | None,
        nodes: Mapping[str, Node] | None,
        namespaces: Mapping[str, Labels] | None,
        pods: Mapping[str, Pod] | None,
        groups: Mapping[str, int] | None,
    ) -> Observed:
        found = None if pods is None else await self._resolved(tuple(pods.values()))
        said = layouts.items() if layouts is not None else ()
        return Observed(
            label=self._label,
            now=self._clock(),
            pods=found,
            nodes=None if nodes is None else tuple(nodes.values()),
            layouts=None
            if layouts is None
            else {name: each for name, each in said if isinstance(each, NodeLayout)},
            namespace=self._pods_from or "",
            unreadable={name: each for name, each in said if isinstance(each, str)},
            namespaces=namespaces or {},
            minimums=groups or {},
            lacking=tuple(sorted(self._lacking, key=lambda each: each.right)),
            max_slices_per_gpu=self._max_slices_per_gpu,
        )

    async def _pods(self) -> Mapping[str, Pod] | None:
        """Lists the pods of all namespaces, or of one where the person may list no others."""
        self._pods_from = ""
        pods = await self._list(_Kind(PODS, _pod))
        if pods is None and self._fallback:
            pods = await self._list(_Kind(PODS, _pod, self._fallback))
            self._pods_from = self._fallback
        if pods is None:
            self._pods_from = None
        return pods

    async def _minimums(self) -> Mapping[str, int] | None:
        """The PodGroups' minimums; None where the kind is not installed or not to be read."""
        try:
            found = await _all(self._kube, _Kind(POD_GROUPS, minimum_of))
        except (Forbidden, NotFound):
            self._groups = False
            return None
        self._groups = True
        return found

    async def _list(self, kind: _Kind[T]) -> Mapping[str, T] | None:
        try:
            return await _all(self._kube, kind)
        except Forbidden as error:
            self._lacking[denied(error, "list", kind.resource, kind.namespace or "")] = None
            return None
        except NotFound as error:
            if kind.resource is NODE_LAYOUTS:
                raise UnusableInput(_NOT_INSTALLED) from error
            raise

    async def _resolved(self, pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
        """Adds what volumes say to the pods; volumes are read only where a pod waits with some."""
        if not any(pod.volume_claims and pod.is_pending for pod in pods):
            return pods
        where = self._pods_from or None
        try:
            claims = await _all(self._kube, _Kind(CLAIMS, _claim, where))
            volumes = await _all(self._kube, _Kind(VOLUMES, _volume))
        except Forbidden:
            return pods  # as the planner does where it may not read them: the scheduler judges
        return tuple(resolve(p, claims, volumes) if p.is_pending else p for p in pods)


async def observer_of(kube: Kube, options: Namespace, namespace: str) -> Observer:
    """An observer that decides as the cluster's own planner is told to.

    The label that a flag names counts before the planner's. Without the right to see the planner's
    Deployment the chart's defaults count.
    """
    installed = await read_installed(kube)
    label = options.node_label
    if installed.label is not None and "node_label" not in options.given:
        label = installed.label
    limit = installed.max_slices_per_gpu or MAX_SLICES_PER_GPU
    return Observer(kube, label, namespace, max_slices_per_gpu=limit)


async def _all(kube: Kube, kind: _Kind[T]) -> dict[str, T]:
    """Lists all objects by key, projecting page by page: ten thousand raw pods take 200 MB."""
    found: dict[str, T] = {}
    token = ""
    while True:
        query = {"limit": _PAGE, **({"continue": token} if token else {})}
        page = await kube.list_page(kind.resource, namespace=kind.namespace, query=query)
        for item in page.get("items") or ():
            projected = kind.project(item)
            if projected is not None:
                found[key_of(item)] = projected
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return found


def _name(resource: Resource) -> str:
    group, slash, _ = resource.api_version.partition("/")
    return f"{resource.plural}.{group}" if slash else resource.plural


def _reading(parse: Callable[[Json], T]) -> Callable[[Json], T | None]:
    """Leaves out objects that cannot be parsed; the planner logs them."""

    def read(obj: Json) -> T | None:
        try:
            return parse(obj)
        except _MALFORMED:
            return None

    return read


_node = _reading(parse_node)
_pod = _reading(parse_pod)


def _layout(obj: Json) -> NodeLayout | str:
    try:
        return parse_node_layout(obj)
    except MpsliceError as error:
        return str(error)


_LAYOUTS: Final[_Kind[NodeLayout | str]] = _Kind(NODE_LAYOUTS, _layout)


def _claim(obj: Json) -> Claim:
    spec = obj.get("spec") or {}
    return Claim(str(spec.get("volumeName") or ""), "deletionTimestamp" in obj["metadata"])


def _volume(obj: Json) -> tuple[NodeTerm, ...] | None:
    required = (((obj.get("spec") or {}).get("nodeAffinity")) or {}).get("required")
    return None if required is None else parse_terms(required)


class LastTrouble(logging.Handler):
    """Keeps the last warning of a reflector and calls `on_trouble`, so that a picture that no
    longer changes says why.
    """

    def __init__(self, on_trouble: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self.words = ""
        self._on_trouble = on_trouble

    def emit(self, record: logging.LogRecord) -> None:
        self.words = f"{record.getMessage()}: {getattr(record, 'error', '')}"
        self._on_trouble()
