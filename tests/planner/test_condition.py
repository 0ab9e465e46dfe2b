"""When the condition mpslice.io/SliceAvailable is written, and what it says."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.plan import Cause, Placement, Refusal
from planner.model.pods import Available, Pod, SliceClaim
from planner.progress.machine import NEW, Progress, carve, offer
from planner.words.condition import LASTS, LATER, SOON, Verdicts, conditions, place_text

START = datetime(2026, 1, 1, tzinfo=UTC)
POD = Pod(
    "default",
    "p",
    uid="p",
    claims=(SliceClaim("main", SliceSize(10), 0),),
    created=START.isoformat(),
)


def carve_now(now: datetime) -> Progress:
    return carve(NEW, "n1", now, missing=True)


def offer_now(now: datetime) -> Progress:
    return offer(carve_now(START), POD, "n1", now)


PLACE = Placement(POD, "n1", (GpuUuid("g"),))
STATE = NodeState(Node("n1"), (Gpu(GpuUuid("g"), 0, 80),))


def said(pod: Pod, after: timedelta, *refused: Refusal) -> Available | None:
    verdicts = Verdicts((), (), refused, (), {}, "part=mps")
    wanted, _ = conditions([pod], verdicts, START + after)
    return wanted.get(pod.uid)


def refusal(pod: Pod = POD, **causes: int) -> Refusal:
    return Refusal(pod, tuple((Cause(name), count) for name, count in causes.items()))


def test_pod_that_waits_less_than_a_second_has_none() -> None:
    assert said(POD, timedelta(milliseconds=900), refusal(GPUMemory=2)) is None
    later = said(POD, timedelta(seconds=2), refusal(GPUMemory=2))
    assert later is not None
    assert (later.status, later.reason) == (False, "GPUMemory")


@pytest.mark.parametrize(("phase", "reason"), [(carve_now, "Carving"), (offer_now, "SliceReady")])
def test_step_that_passes_in_milliseconds_is_told_only_once_it_lasts(
    phase: Callable[[datetime], Progress], reason: str
) -> None:
    offered, carving = ((), (PLACE,)) if reason == "Carving" else ((PLACE,), ())
    began = START + timedelta(seconds=30)
    progress = {"p": phase(began)}
    verdicts = Verdicts(offered, carving, (), (), {"n1": STATE}, "part=mps", progress)
    told, due = conditions([POD], verdicts, began + timedelta(seconds=4))
    assert (told, due) == ({}, began + LASTS)
    told, _ = conditions([POD], verdicts, began + LASTS)
    assert told["p"].reason == reason


def test_change_of_reason_is_written_at_once_and_a_change_of_words_after_a_minute() -> None:
    first = said(POD, timedelta(seconds=2), refusal(GPUMemory=2))
    assert first is not None
    told = replace(POD, available=first)
    moment = timedelta(seconds=3)
    assert said(told, moment, refusal(told, GPUMemory=2)) is None
    other = said(told, moment, refusal(told, CPU=2))
    assert other is not None
    assert other.reason == "CPU"
    ahead = refusal(replace(POD, name="ahead", uid="ahead", priority=1), GPUMemory=2)
    assert said(told, moment, ahead, refusal(told, GPUMemory=2)) is None
    second = said(told, moment + SOON, ahead, refusal(told, GPUMemory=2))
    assert second is not None
    assert second.message.endswith("in the queue: among the first 3")


def test_change_of_figures_alone_is_written_after_ten_minutes() -> None:
    first = said(POD, timedelta(seconds=2), refusal(GPUMemory=2))
    assert first is not None
    told = replace(POD, available=first)
    fewer = refusal(told, GPUMemory=1)
    assert said(told, timedelta(seconds=2) + SOON, fewer) is None
    assert said(told, timedelta(seconds=2) + LATER, fewer) is not None


@pytest.mark.parametrize("reason", ["GPUMemory", "SliceReady"])
def test_bound_pod_that_waited_is_told_to_be_bound(reason: str) -> None:
    """Also where it was offered a slice elsewhere than kube-scheduler bound it."""
    moment = START.isoformat()
    waited = Available(reason == "SliceReady", reason, "10gb on n1 GPU 0", moment, moment)
    bound = replace(POD, node="n2", available=waited)
    told = said(bound, timedelta(seconds=3))
    assert told is not None
    assert (told.status, told.reason, told.message) == (True, "Bound", "bound to n2")
    assert said(replace(bound, available=told), timedelta(hours=1)) is None


def test_bound_pod_that_never_waited_has_none() -> None:
    assert said(replace(POD, node="n2"), timedelta(hours=1)) is None


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (1, "first"),
        (2, "among the first 3"),
        (4, "among the first 10"),
        (31, "among the first 100"),
    ],
)
def test_place_in_the_queue_is_told_in_steps(place: int, text: str) -> None:
    assert place_text(place) == text
