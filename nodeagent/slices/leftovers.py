"""Slices whose pod is gone while its processes may still use their GPU.

The kubelet gives the devices of a pod that is force-deleted away at once (its List leaves them
out), so that only the GPU's processes tell when a slice is really free.
"""

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Final, NoReturn, Protocol

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.kube.reflector import Backoff
from nodeagent.errors import NvmlError
from nodeagent.hardware import GpuProcess
from nodeagent.slices.evidence import Holder
from nodeagent.slices.table import SliceTable

_FIRST_LOOK: Final = 0.050
_LONGEST_LOOK: Final = 2.0

log = logging.getLogger(__name__)


class GpuUsers(Protocol):
    """What is needed of `Gpus`."""

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]: ...


def remains(
    holder: Holder, processes: Iterable[GpuProcess], live: Set[str]
) -> tuple[GpuProcess, ...]:
    """The processes of a pod that is gone.

    One whose uid an earlier agent has not left us is suspected behind every pod that is not live.
    """
    if holder.uid:
        return tuple(process for process in processes if process.pod_uid == holder.uid)
    return tuple(p for p in processes if p.pod_uid and p.pod_uid not in live)


async def until_vacated(table: SliceTable, id_: DeviceId) -> None:
    """Returns once no process of an earlier holder is left; the caller's deadline."""
    while table.get(id_).leftovers:
        await table.held.after(table.held.count)


async def follow_leftovers(table: SliceTable, users: GpuUsers) -> NoReturn:
    """Looks at the GPUs of slices that were left until nothing is left of the earlier holders."""
    backoff = Backoff(first=_FIRST_LOOK, longest=_LONGEST_LOOK)
    while True:
        seen, before = table.held.count, table.leftovers
        for gpu in {id_.gpu for id_ in before}:
            await _look(table, users, gpu)
        if not table.leftovers:
            await table.held.after(seen)
            backoff.reset()
        elif await table.held.within(seen, backoff.delay()) and table.leftovers != before:
            backoff.reset()


async def _look(table: SliceTable, users: GpuUsers, gpu: GpuUuid) -> None:
    left = {id_: holders for id_, holders in table.leftovers.items() if id_.gpu == gpu}
    try:
        processes = await users.processes(gpu)
    except NvmlError as error:
        log.info("the users of a GPU are not known", extra={"gpu": gpu, "error": str(error)})
        return
    live = table.pods().live_uids
    gone = {
        id_: tuple(holder for holder in holders if not remains(holder, processes, live))
        for id_, holders in left.items()
    }
    table.vacate({id_: holders for id_, holders in gone.items() if holders})
