"""Each cause for which a pod waits, from the cluster's state to what people read of it: the
planner's Event, the pod's condition, `why` with all rights and with those of a namespace, and the
page of the replica that leads and of one that stands by.

Reasons of admission have the same in test_why_workloads.py, those of nodes in test_why_nodes.py.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from cli.observe import Observed, Observer, judged
from cli.terminal import text_of
from cli.why import advice
from cli.why.answer import Answer, State
from cli.why.ask import ask, target
from cli.why.draw import draw
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from planner.decide import decide
from planner.model.plan import Cause
from planner.model.pods import GATE, Available
from planner.progress.machine import Progress
from planner.state.parse import parse_pod
from planner.ui.changes import changes
from planner.ui.picture import Picture, picture
from planner.ui.seen import Seen
from planner.view import Decision, View
from planner.words.condition import LASTS, condition_json
from planner.words.storyteller import Storyteller
from planner.writes.actions import Inform, Ungate
from tests.cli.causes import CASES, NOW, UNREACHABLE, Case
from tests.cli.fake_api import FakeApi, cluster, view
from tests.cli.objects import LABEL, available, gpu, layout, node, pod, taint


def test_every_cause_is_followed_to_the_person() -> None:
    assert {case.cause for case in CASES} | UNREACHABLE.keys() == set(Cause)


def test_every_cause_has_advice() -> None:
    assert set(advice.CAUSES) == set(Cause)


class Recorder(EventRecorder):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.events: dict[str, tuple[str, str]] = {}

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        self.events[about.name] = (reason, message)
        return True


async def seen(kube: FakeApi) -> Observed:
    return await Observer(kube, LABEL, "team-a", clock=lambda: NOW).look()


def decided(observed: Observed, remembers: Mapping[str, Progress]) -> Decision:
    """What the planner decides on what is seen, with what it remembers by pod uid."""
    nodes, layouts, pods = observed.nodes or (), observed.layouts or {}, observed.pods or ()
    return decide(View(nodes, layouts, pods, LABEL, now=NOW, progress=remembers))


def events_of(decision: Decision) -> dict[str, tuple[str, str]]:
    """The planner's Events, by the name of what they are about: reason and message."""
    recorder = Recorder()
    Storyteller(recorder, LABEL).tell(decision, now=0.0)
    return recorder.events


def led(observed: Observed, decision: Decision) -> Seen:
    """What the replica that leads sees."""
    return Seen(observed.layouts or {}, observed.unreadable, decision, (), "=".join(LABEL), "me")


def page_of(what: Seen) -> Json:
    """The first event that a reader of the page is sent."""
    text = changes(None, picture(what, (), Picture()))
    assert text is not None
    shown: Json = json.loads(text)
    return shown


def queue_of(what: Seen) -> dict[str, Json]:
    queue: dict[str, Json] = page_of(what)["queue"]
    return queue


def condition_of(decision: Decision, name: str = "p") -> Available:
    said = [a.available for a in decision.actions if isinstance(a, Inform) and a.pod.name == name]
    assert said
    assert said[0] is not None
    return said[0]


async def why(kube: FakeApi, name: str = "p") -> Answer:
    observer = Observer(kube, LABEL, "team-a", clock=lambda: NOW)
    return await ask(kube, observer, target(name), "team-a")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.cause}: {case.told[:30]}")
async def test_cause_is_told_in_event_condition_why_and_page(case: Case) -> None:
    kube = FakeApi(case.objects)
    observed = await seen(kube)
    known = {pod.uid: case.remembers for pod in observed.pods or () if pod.name == "p"}
    decision = decided(observed, {uid: each for uid, each in known.items() if each is not None})
    row = queue_of(led(observed, decision))["team-a/p"]
    assert row["reason"] == case.cause
    assert case.told in row["text"]
    if case.remembers is None:
        answer = await why(kube)
        assert (answer.state, answer.reason) == (State.WAITS, case.cause)
        assert case.told in answer.summary
        lines = text_of(draw(answer, NOW))
        assert case.helps
        assert case.helps in lines, lines
    told = dict(case.objects[next(n for n, (r, _) in enumerate(case.objects) if r is PODS)][1])
    if case.cause is Cause.GATED:  # of which the planner does not speak: the gate does
        assert [p.name for p in decision.gated] == ["p"]
        assert not [a for a in decision.actions if isinstance(a, Inform | Ungate)]
        assert not events_of(decision)
    else:
        reason, message = events_of(decision)["p"]
        assert (reason, case.told in message) == ("SliceUnavailable", True), message
        condition = condition_of(decision)
        assert (condition.status, condition.reason) == (False, case.cause)
        assert case.told in condition.message
        told["status"] = {**told["status"], "conditions": [condition_json(condition)]}

    # What the planner has written is all that a person with a namespace's rights reads, and all
    # that a replica knows that stands by.
    restricted = await why(FakeApi([(PODS, told)], view("team-a")))
    assert (restricted.state, restricted.reason) == (State.WAITS, case.cause)
    assert case.told in restricted.summary
    assert advice.CAUSES[case.cause] in text_of(draw(restricted, NOW))
    row = queue_of(Seen(pods=(parse_pod(told),)))["team-a/p"]
    assert row["reason"] == case.cause
    assert case.told in row["text"]


PLACE = "40gb on n1, GPU 0"
FREE = layout("n1", gpu("n1", 0, 80, (40, "")))
WAITED = available("GPUMemory", "40gb: 0 of 1 nodes: 1 GPUMemory")


@dataclass(frozen=True)
class Way:
    """Pod `p` is on its way, or there: what each way says, "" where it says nothing of that."""

    reason: str
    event: str
    condition: str
    why: tuple[str, str]
    page: str
    pod: Json
    layout: Json = field(default_factory=lambda: layout("n1", gpu("n1", 0, 80)))


WAYS = [
    Way(
        "Carving",
        PLACE,
        f"{PLACE}: its slices are being made",
        ("Carving", f"its slice is being made: {PLACE}"),
        f"{PLACE}: its slices are being made",
        pod("p", 40, gates=[GATE]),
    ),
    Way(
        "SliceReady",
        "",
        PLACE,
        ("SliceReady", f"a slice is ready for it: {PLACE}"),
        PLACE,
        pod("p", 40),
        FREE,
    ),
    Way(
        "Bound",
        "",  # kube-scheduler tells it
        "bound to n1",
        ("Running", "40gb on n1 GPU 0"),
        "",  # it is no more in the queue; its GPU shows it
        pod("p", 40, on="n1", conditions=[WAITED]),
        layout("n1", gpu("n1", 0, 80, (40, "team-a/p"))),
    ),
]


def test_every_reason_of_the_condition_is_followed_to_the_person() -> None:
    assert {way.reason for way in WAYS} == set(advice.CONDITIONS)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.reason)
async def test_pod_with_a_place_is_told_in_event_condition_why_and_page(way: Way) -> None:
    kube = FakeApi(cluster(nodes=[node("n1")], layouts=[way.layout], pods=[way.pod]))
    observed = await seen(kube)
    decision = judged(observed)
    assert decision is not None
    assert events_of(decision).get("p", ("", ""))[1] == way.event
    entered = {uid: replace(known, entered=NOW - LASTS) for uid, known in decision.progress.items()}
    decision = decided(observed, entered)
    condition = condition_of(decision)
    assert (condition.reason, condition.message) == (way.reason, way.condition)
    answer = await why(kube)
    assert answer.state.is_well
    assert answer.reason == way.why[0]
    assert way.why[1] in answer.summary
    shown = page_of(led(observed, decision))
    row = shown.get("queue", {}).get("team-a/p", {"text": ""})
    assert row["text"] == way.page
    held = [each for each in shown["nodes"]["n1"]["gpus"][0]["slices"] if each[1:]]
    assert held == ([] if way.page else [[40, "team-a/p", "main"]])


async def test_each_node_that_refuses_is_named_with_its_cause() -> None:
    kube = FakeApi(
        cluster(
            nodes=[
                node("n1"),
                node("n2", taints=[taint("dedicated", "x")]),
                node("n10", ready=False),
                node("n3"),
            ],
            layouts=[
                layout("n1", gpu("n1", 0, 80, (60, "team-b/a"))),
                layout("n2", gpu("n2", 0, 80)),
                layout("n3", ready=("ForeignPlugin", "another device plugin offers it")),
            ],
            pods=[pod("p", 40, gates=[GATE]), pod("a", 60, namespace="team-b", on="n1")],
        )
    )
    lines = text_of(draw(await why(kube), NOW)).splitlines()
    start = lines.index("Nodes (4)")
    assert lines[start + 1 : start + 5] == [
        "  n1   GPUMemory  largest hole 20gb on GPU 0",
        "  n2   Taint      dedicated=x:NoSchedule",
        "  n3   NotReady   ForeignPlugin: another device plugin offers it",
        "  n10  NotReady   no NodeLayout yet",
    ]


async def test_queue_names_the_place_and_the_pods_ahead() -> None:
    waiting = [
        pod("first", 80, namespace="team-b", priority=100, gates=[GATE]),
        pod("p", 40, gates=[GATE]),
        pod("later", 40, gates=[GATE], created="2026-01-01T11:59:50Z"),
    ]
    case = Case(Cause.GPU_MEMORY, "", layouts=[layout("n1", gpu("n1", 0, 80, (60, "team-a/big")))])
    kube = FakeApi([*case.objects[:2], *cluster(pods=[pod("big", 60, on="n1"), *waiting])])
    answer = await why(kube)
    assert answer.queue is not None
    assert (answer.queue.place, answer.queue.of) == (2, 3)
    assert answer.queue.ahead == ("team-b/first (80gb, priority 100)",)
    first = replace((await why(kube, "later")).queue or answer.queue, ahead=())
    assert first.place == 3


async def test_objects_that_cannot_be_read_hide_nothing_else() -> None:
    case = Case(Cause.NOT_READY, "")
    broken = {"metadata": {"name": "n2", "uid": "u"}, "spec": {"taints": "none"}}
    bad = {"metadata": {"name": "n3"}, "status": {"gpus": [{"uuid": "GPU-1"}]}}
    kube = FakeApi([*case.objects, (NODES, broken), (NODE_LAYOUTS, bad)])
    observed = await seen(kube)
    assert [each.name for each in observed.nodes or ()] == ["n1"]
    assert "n3" in observed.unreadable
    assert (await why(kube)).state is State.ON_ITS_WAY
