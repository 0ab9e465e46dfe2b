"""All metrics that the programs export, with a sample in each."""

from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.nodelayout import GpuStatus, SliceState, SliceStatus
from nodeagent.gpus.memory import PodMemory
from nodeagent.hardware import MpsHealth
from nodeagent.metrics import Metrics as AgentMetrics
from planner.metrics import Metrics as PlannerMetrics
from planner.model.snapshot import Snapshot
from planner.view import Decision
from tests.planner.test_packing import node, pod
from webhook.metrics import Metrics as WebhookMetrics

_UUID: Final = GpuUuid("GPU-1")
_SLICES: Final = (SliceStatus(DeviceId.parse("GPU-1::10::0"), 9533, SliceState.FREE),)
_GPU: Final = GpuStatus(_UUID, 0, "NVIDIA A100-SXM4-80GB", 81920, 85, slices=_SLICES)
_SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def registries() -> dict[str, CollectorRegistry]:
    """Of each program, by its name."""
    agent = AgentMetrics("n1")
    agent.watch(lambda: (_GPU,), lambda: 1)
    agent.watch_memory(lambda: (PodMemory(0, "team/train", "uid", 1, 2),))
    agent.watch_mps(lambda: {_UUID: MpsHealth()}, dict)
    planner = PlannerMetrics()
    planner.decided(
        Decision(snapshot=Snapshot((node("n1", 80),)), gated=(pod("p", 10),)), seconds=0.1
    )
    webhook = WebhookMetrics()
    webhook.answered("mutate", "refused", "MultipleSlices", 0.001)
    return {
        "webhook": webhook.registry,
        "planner": planner.registry,
        "nodeagent": agent.registry,
    }


@cache
def names() -> frozenset[str]:
    """Of the series, as PromQL asks for them."""
    families = (family for each in registries().values() for family in each.collect())
    return frozenset(
        family.name + suffix
        for family in families
        for suffix in _SUFFIXES.get(family.type, ("",))
        if family.samples
    )


def plain(series: str) -> str:
    """The metric that a series belongs to, as the documentation lists it."""
    for suffix in _SUFFIXES["histogram"]:
        series = series.removesuffix(suffix)
    return series
