"""PodGroups, wherever their kind is installed, and whenever that comes or goes.

The kind belongs to the coscheduling plugin (kubernetes-sigs/scheduler-plugins). Its definition is
followed like any object, so nothing is asked again and again for what is not there.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from mpslice.kube.api import Json, Kube, Resource
from mpslice.kube.reflector import Change, Reflector

POD_GROUPS: Final = Resource("scheduling.x-k8s.io/v1alpha1", "podgroups", namespaced=True)

_DEFINITIONS: Final = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
_NAME: Final = "podgroups.scheduling.x-k8s.io"
_VERSION: Final = "v1alpha1"

log = logging.getLogger(__name__)


class PodGroups:
    """`minimums` are the groups' minMember by `namespace/name`; empty while there is no such kind.

    `known` is set once it is clear whether the kind is installed and, if so, what groups there are.
    """

    def __init__(self, kube: Kube, on_change: Callable[[], None]) -> None:
        self.known = asyncio.Event()
        self._kube = kube
        self._on_change = on_change
        self._kind_changed = asyncio.Event()
        self._definitions = Reflector(
            kube,
            _DEFINITIONS,
            _is_served,
            self._definition_changed,
            field_selector=f"metadata.name={_NAME}",
        )
        self._groups: Reflector[int] | None = None

    @property
    def minimums(self) -> Mapping[str, int]:
        return self._groups.objects if self._groups is not None else {}

    async def run(self) -> NoReturn:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._definitions.run())
            await self._definitions.synced.wait()
            while True:
                await self._until_kind(served=True)
                groups = self._groups = Reflector(
                    self._kube, POD_GROUPS, minimum_of, self._group_changed
                )
                following = tasks.create_task(groups.run())
                listed = tasks.create_task(self._know_once_listed(groups))
                await self._until_kind(served=False)
                following.cancel()
                listed.cancel()
                self._groups = None
                self._on_change()

    async def _until_kind(self, *, served: bool) -> None:
        while self._definitions.objects.get(_NAME, False) is not served:
            if served:
                self.known.set()
            self._kind_changed.clear()
            await self._kind_changed.wait()
        log.info("PodGroups are %s", "followed" if served else "no longer there")

    async def _know_once_listed(self, groups: Reflector[int]) -> None:
        await groups.synced.wait()
        self.known.set()

    def _definition_changed(self, _change: Change[bool]) -> None:
        self._kind_changed.set()

    def _group_changed(self, _change: Change[int]) -> None:
        self._on_change()


def _is_served(definition: Json) -> bool:
    spec, status = definition.get("spec") or {}, definition.get("status") or {}
    established = any(
        condition.get("type") == "Established" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    going = "deletionTimestamp" in definition["metadata"]
    served = any(v.get("name") == _VERSION and v.get("served") for v in spec.get("versions") or ())
    return established and served and not going


def minimum_of(group: Json) -> int | None:
    """A PodGroup's minMember; None where it says nothing usable."""
    minimum = (group.get("spec") or {}).get("minMember")
    return minimum if isinstance(minimum, int) and minimum > 0 else None
