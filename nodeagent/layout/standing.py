"""The table of slices as a layout's decision sees it, and the decision as a condition. Pure."""

from collections.abc import Collection, Sequence

from mpslice.gpus import DeviceId, GpuUuid, capacity_gb
from mpslice.nodelayout import Condition, ConditionType
from nodeagent.cluster.report import MESSAGE_LENGTH, by_index
from nodeagent.layout.decision import Blocked, Obstacle, Standing, StandingGpu
from nodeagent.settings import Settings
from nodeagent.slices.table import SliceTable


def standing_gpus(
    table: SliceTable,
    resting: Collection[DeviceId],
    settings: Settings,
    starting: Collection[GpuUuid] = (),
    gone: Collection[DeviceId] = (),
) -> list[StandingGpu]:
    """The GPUs with their slices but those that are `gone`; `resting` ones are not withdrawn now,
    and the enforcement of some GPUs is `starting`."""
    return [
        StandingGpu(
            uuid=gpu.uuid,
            capacity_gb=capacity_gb(gpu.memory_mib, settings.memory_unit),
            healthy=gpu.works,
            refusal=gpu.refusal.why if gpu.refusal else "",
            starting=gpu.uuid in starting,
            slices=tuple(
                Standing(
                    device,
                    used=device in table.holders,
                    kept=Obstacle.PODS_PENDING if device in resting else None,
                )
                for device in table.on_gpu(gpu.uuid)
                if device not in gone
            ),
        )
        for gpu in by_index(table)
    ]


def applied(blocked: Sequence[Blocked]) -> Condition:
    """The condition Applied for what could not be done."""
    if not blocked:
        return Condition(ConditionType.APPLIED, True, "Applied")
    message = "; ".join(entry.message for entry in blocked)
    return not_applied(str(blocked[0].obstacle), message)


def not_applied(reason: str, message: str) -> Condition:
    """The condition Applied for what could not even be tried."""
    return Condition(ConditionType.APPLIED, False, reason, message[:MESSAGE_LENGTH])
