"""What stands against each GPU of the node, from the driver and from everybody else who has a say.

The outcome is shown to the table of slices, and every change of it is told in an Event on the node.
"""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

from mpslice.gpus import EXCLUDE_ANNOTATION, GpuUuid
from mpslice.kube.events import EventType
from nodeagent.gpus.foreign import ForeignDevices
from nodeagent.gpus.nos import Traces, find_traces
from nodeagent.gpus.refusals import (
    EXCLUDED,
    FOREIGN_PARTITIONER,
    Claims,
    refusals,
    unknown_entries,
    with_refusals,
)
from nodeagent.hardware import Gpu, MpsHealth
from nodeagent.pulse import Pulse
from nodeagent.slices.evidence import Pods

TellNode = Callable[[EventType, str, str], None]
"""Records an Event on the node: type, reason, message."""

log = logging.getLogger(__name__)


def with_mps(gpus: Sequence[Gpu], health: Mapping[GpuUuid, MpsHealth]) -> tuple[Gpu, ...]:
    """The GPUs, of which one without its daemon does not work either; what the driver says of it
    goes first."""
    return tuple(
        replace(gpu, reason=daemon.reason, detail=daemon.detail)
        if gpu.works and (daemon := health.get(gpu.uuid)) is not None and daemon.reason
        else gpu
        for gpu in gpus
    )


class GpuBoard:
    """`changed` beats when a GPU is another than before. `nos` is what is left of it here."""

    def __init__(
        self,
        gpus: Sequence[Gpu],
        foreign: ForeignDevices,
        show: Callable[[Sequence[Gpu]], None],
        tell: TellNode,
        reserved_mib: int,
    ) -> None:
        self.changed = Pulse()
        self.nos = Traces()
        self._gpus = gpus  # as the driver shows them
        self._shown: tuple[Gpu, ...] | None = None
        self._foreign = foreign
        self._show = show
        self._tell = tell
        self._reserved_mib = reserved_mib
        self._excluded: frozenset[str] = frozenset()
        self._mps: Mapping[GpuUuid, MpsHealth] = {}
        self._told: dict[GpuUuid, str | None] = {}
        foreign.changed.listen(self.settle)

    def put_gpus(self, gpus: Sequence[Gpu]) -> None:
        """What the driver shows now."""
        self._gpus = gpus
        self.settle()

    def put_mps(self, health: Mapping[GpuUuid, MpsHealth]) -> None:
        """How the MPS daemons fare now."""
        if health != self._mps:
            self._mps = health
            self.settle()

    def put_excluded(self, excluded: frozenset[str]) -> None:
        """The GPUs that the user keeps, by index or UUID."""
        if excluded == self._excluded:
            return
        self._excluded = excluded
        unknown = unknown_entries(excluded, self._gpus)
        if unknown:
            text = (
                f"{EXCLUDE_ANNOTATION} names {', '.join(unknown)}, which is not a GPU of this node"
            )
            self._tell(EventType.WARNING, "InvalidAnnotation", text)
        self.settle()

    def put_pods(self, pods: Pods, ours: Set[str], foreign: Set[str]) -> None:
        """The pods of the node, among which nos's may be.

        `ours` are the uids of those with slices of this agent, `foreign` of those with slices of
        another plugin, as the kubelet's checkpoint has them.
        """
        traces = find_traces(pods, ours, self.nos.holders | foreign)
        if traces != self.nos:
            before, self.nos = self.nos, traces
            self._tell_of_nos(before)
            self.settle()

    def settle(self) -> None:
        """Judges every GPU anew."""
        claims = Claims(self._excluded, self._foreign.gpus, self.nos.message, self._reserved_mib)
        gpus = with_mps(self._gpus, self._mps)
        now = with_refusals(gpus, refusals(gpus, claims))
        for gpu in now:
            self._tell_of_gpu(gpu)
        if now != self._shown:
            self._shown = now
            self._show(now)
            self.changed.beat()

    def _tell_of_gpu(self, gpu: Gpu) -> None:
        before, self._told[gpu.uuid] = self._told.get(gpu.uuid), gpu.objection
        if before == gpu.objection:
            return
        name = f"GPU {gpu.index} ({gpu.uuid})"
        why = gpu.refusal.why if gpu.refusal else gpu.detail
        about = {"gpu": gpu.uuid, "reason": gpu.objection, "detail": why}
        log.warning("a GPU's state changed", extra=about)
        if gpu.healthy:
            self._tell(EventType.NORMAL, "GPUHealthy", f"{name} is served again")
        elif gpu.refusal is None:
            text = f"{name} is unhealthy: {gpu.reason}: {why}"
            self._tell(EventType.WARNING, "GPUUnhealthy", text)
        elif gpu.objection != FOREIGN_PARTITIONER:  # of that is told once for all GPUs
            type_ = EventType.NORMAL if gpu.objection == EXCLUDED else EventType.WARNING
            self._tell(type_, "GPURefused", f"{name} is left alone: {why}")

    def _tell_of_nos(self, before: Traces) -> None:
        if not self.nos.message:
            text = "nos has left this node; its GPUs are sliced from now on"
            self._tell(EventType.NORMAL, "ForeignPartitionerGone", text)
        elif not before.message or before.plugins != self.nos.plugins:
            self._tell(EventType.WARNING, FOREIGN_PARTITIONER, self.nos.message)
