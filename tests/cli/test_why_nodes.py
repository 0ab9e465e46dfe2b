"""Why a node is not used: one test for each thing that may stand in the way, and for none."""

import inspect
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.observe import Observed, Observer, judged
from cli.status.draw import draw as draw_status
from cli.status.picture import picture as draw_picture
from cli.terminal import ASCII, text_of
from cli.why import advice
from cli.why.answer import Answer, State
from cli.why.ask import ask, target
from cli.why.draw import draw
from mpslice.kube.api import NODE_LAYOUTS, NODES, Json
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.nodelayout import KUBELET_UNAVAILABLE, STOPPING
from nodeagent import errors
from nodeagent.gpus import health, refusals
from nodeagent.mps import client
from planner.decide import decide
from planner.state.absence import Absences
from planner.ui.changes import changes
from planner.ui.picture import Picture
from planner.ui.picture import picture as page_picture
from planner.ui.seen import Seen
from planner.view import Decision, View
from planner.words import storyteller
from tests.cli.fake_api import FakeApi, Grant, cluster
from tests.cli.objects import LABEL, gpu, layout, node, pod, taint

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def why(kube: FakeApi, name: str = "node/n1") -> Answer:
    observer = Observer(kube, LABEL, "team-a", clock=lambda: NOW)
    return await ask(kube, observer, target(name), "team-a")


async def about(node_: Json, *layouts: Json, pods: tuple[Json, ...] = ()) -> tuple[Answer, str]:
    answer = await why(FakeApi(cluster(nodes=[node_], layouts=layouts, pods=pods)))
    return answer, text_of(draw(answer, NOW))


SERVED = layout("n1", gpu("n1", 0, 80))
GPU_NODE = {"nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("node_", "layouts", "reason", "text"),
    [
        (
            node("n1", handed_over=False, amounts=GPU_NODE),
            (),
            "NotLabelled",
            "kubectl label node n1 nos.nebuly.com/gpu-partitioning=mps",
        ),
        (node("n1", handed_over=False), (), "NotLabelled", "nothing shows that it has GPUs"),
        (
            node("n1", handed_over=False, labels={LABEL[0]: "mig"}),
            (),
            "NotLabelled",
            "gpu-partitioning=mps --overwrite",
        ),
        (
            node("n1", handed_over=False),
            (layout("n1", gpu("n1", 0, 80), release=True),),
            "HandedBack",
            "it is handed back",
        ),
        (node("n1", ready=False), (SERVED,), "NotReady", "kubelet stopped posting"),
        (node("n1", cordoned=True), (SERVED,), "Unschedulable", "kubectl uncordon n1"),
        (node("n1"), (), "NoLayout", "component=planner"),
        (node("n1"), (layout("n1", status=False),), "NoAgent", "field-selector=spec.nodeName=n1"),
        (
            node("n1"),
            (layout("n1", ready=("Stopping", "")),),
            "Stopping",
            "its agent is away: Stopping",
        ),
        (
            node("n1"),
            (layout("n1", ready=("DriverNotLoaded", "no driver")),),
            "DriverNotLoaded",
            "load NVIDIA's driver on the node",
        ),
        (
            node("n1"),
            (layout("n1", gpu("n1", 0, 80, reason="MigMode"), ready=("MigMode", "GPU 0 is MIG")),),
            "MigMode",
            "turn MIG off",
        ),
        (
            node("n1"),
            (layout("n1", gpu("n1", 0, 80, reason="XidError")),),
            "XidError",
            "none of its GPUs is served: GPU 0 XidError",
        ),
        (node("n1"), (layout("n1"),), "NoGpus", "its agent shows no GPU"),
        (
            node("n1"),
            (layout("n1", gpu("n1", 0, 80), applied=("SliceInUse", "10gb is held")),),
            "NotApplied",
            "SliceInUse: 10gb is held",
        ),
        (
            node("n1"),
            (layout("n1", gpu("n1", 0, 80), behind=True),),
            "NotApplied",
            "has not taken the layout",
        ),
        (
            node("n1"),
            (layout("n1", gpu("n1", 0, 10, (20, "a/b"))),),
            "NodeSetAside",
            "20gb are used on GPU 0, which has 10gb",
        ),
    ],
)
async def test_first_thing_in_the_way_is_the_reason(
    node_: Json, layouts: tuple[Json, ...], reason: str, text: str
) -> None:
    answer, lines = await about(node_, *layouts)
    assert (answer.state, answer.reason) == (State.NOT_USED, reason)
    assert text in lines


async def test_layout_of_an_earlier_node_is_told_from_the_nodes_own() -> None:
    old = layout("n1", gpu("n1", 0, 80))
    old["metadata"]["ownerReferences"][0]["uid"] = "uid-of-the-old"
    answer, _ = await about(node("n1"), old)
    assert answer.reason == "OldLayout"


async def test_layout_that_cannot_be_read_is_quoted() -> None:
    bad: Json = {"metadata": {"name": "n1"}, "status": {"gpus": [{"uuid": "GPU-1"}]}}
    answer = await why(FakeApi([(NODES, node("n1")), (NODE_LAYOUTS, bad)]))
    assert answer.reason == "UnreadableLayout"
    assert "index" in answer.summary


async def test_agent_whose_slices_the_node_does_not_show_is_away() -> None:
    away = layout("n1", gpu("n1", 0, 80, (10, "")))
    answer = await why(FakeApi([(NODES, node("n1")), (NODE_LAYOUTS, away)]))
    assert answer.reason == "AgentAway"


async def test_everything_in_the_way_is_told_in_its_order() -> None:
    _, lines = await about(node("n1", ready=False, cordoned=True), layout("n1", status=False))
    assert lines.index("not ready") < lines.index("cordoned") < lines.index("no agent has reported")


async def test_node_that_nothing_asks_for_says_so() -> None:
    answer, _ = await about(node("n1"), SERVED)
    assert (answer.state, answer.reason) == (State.NOT_USED, "NothingAsks")
    assert answer.summary == "it is served with 80gb, and no pod waits for a slice"


async def test_node_on_which_no_pod_fits_says_why_each_does_not() -> None:
    tainted = node("n1", taints=[taint("dedicated", "x")])
    everywhere = [{"key": "dedicated", "operator": "Exists"}]
    pods = (pod("a", 10), pod("b", 20), pod("c", 90, tolerations=everywhere))
    answer, _ = await about(tainted, SERVED, pods=pods)
    assert answer.reason == "NothingAsks"
    assert answer.summary.endswith(
        "none of the 3 pods that wait fits there: 2 Taint, 1 GPUTooSmall"
    )


async def test_node_that_is_used_says_by_which_pods() -> None:
    used = layout(
        "n1", gpu("n1", 0, 80, (20, "team-a/x"), (10, "")), gpu("n1", 1, 80, reason="Lost")
    )
    answer, lines = await about(node("n1"), used, pods=(pod("x", 20, on="n1"),))
    assert (answer.state, answer.reason) == (State.FINE, "Used")
    assert "1 slice holds 20gb of its 80gb" in lines
    assert "not served: GPU 1 Lost" in lines
    assert "GPU 0: 20gb is held by team-a/x" in lines


async def test_holders_of_equal_slices_are_told_by_name_whichever_slice_each_got() -> None:
    used = layout("n1", gpu("n1", 0, 80, (20, "a/p10"), (10, "a/z"), (20, "a/p2"), (20, "a/p1")))
    answer, _ = await about(node("n1"), used)
    assert [fact.rpartition(" ")[2] for fact in answer.facts] == ["a/z", "a/p1", "a/p2", "a/p10"]


async def test_node_alone_is_judged_by_what_may_be_read() -> None:
    objects = cluster(nodes=[node("n1")], layouts=[SERVED])
    answer = await why(FakeApi(objects, [Grant("nodes")]))
    assert (answer.state, answer.reason) == (State.FINE, "Labelled")
    assert {each.right.resource for each in answer.lacking} >= {"nodelayouts.mpslice.io", "pods"}


AGENTS = sorted(advice.NODES)
PASSING = {KUBELET_UNAVAILABLE, STOPPING}


@pytest.mark.parametrize("reason", AGENTS)
async def test_reason_of_an_agent_is_told_by_why_status_and_page(reason: str) -> None:
    """The agent writes it into its node's NodeLayout, from where everybody reads it."""
    said = layout("n1", gpu("n1", 0, 80), ready=(reason, "as the agent says"))
    answer, lines = await about(node("n1"), said)
    assert (answer.state, answer.reason) == (State.NOT_USED, reason)
    assert advice.NODES[reason] in lines
    words = f"{reason}: as the agent says"
    assert words in lines
    objects = cluster(nodes=[node("n1")], layouts=[said], pods=[pod("p", 10)])
    observed = await Observer(FakeApi(objects), LABEL, "", clock=lambda: NOW).look()
    decision = judged(observed)
    assert f"n1  {words}" in text_of(draw_status(draw_picture(observed, decision, ""), ASCII, None))
    assert page(observed, decision)["n1"]["problem"] == words
    waits = await why(FakeApi(objects), "pod/p")
    assert waits.reason == "NotReady"
    waits_for_it = ["it fits only on n1, and its agent is away for the moment"]
    told = [each.detail for each in waits.nodes] or [waits.summary]
    assert told == (waits_for_it if reason in PASSING else [words])


CONTRADICTS = "20gb are used on GPU 0, which has 10gb"
SILENT = "KubeletUnavailable: no answer"
OF_PLANNER = {
    "NodeSetAside": (layout("n1", gpu("n1", 0, 10, (20, "a/b"))), CONTRADICTS, CONTRADICTS),
    "UnreadableLayout": (
        {"metadata": {"name": "n1"}, "status": {"gpus": [{"uuid": "G"}]}},
        "index",
        "index",
    ),
    "NodeAgentAway": (
        layout("n1", gpu("n1", 0, 80), ready=("KubeletUnavailable", "no answer")),
        "its node agent has been away for 120 seconds",
        SILENT,
    ),
}
"""What the planner says of a node by an Event: the NodeLayout that leads to it, words of the Event,
and words of `why` and page."""


def test_every_reason_of_an_event_on_a_node_is_followed_to_the_person() -> None:
    text = inspect.getsource(storyteller.Storyteller._tell_of_nodes)
    assert OF_PLANNER.keys() == set(re.findall(r'"([A-Z][A-Za-z]+)"', text))


@pytest.mark.parametrize("reason", OF_PLANNER)
async def test_what_the_planner_says_of_a_node_is_told_in_event_why_and_page(reason: str) -> None:
    said, words, more = OF_PLANNER[reason]
    kube = FakeApi(cluster(nodes=[node("n1")], layouts=[said]))
    observed = await Observer(kube, LABEL, "", clock=lambda: NOW).look()
    layouts, absences = observed.layouts or {}, Absences()
    absences.watch(observed.labelled, layouts, 0.0)
    away = absences.watch(observed.labelled, layouts, 600.0)
    view = View(observed.labelled, layouts, (), LABEL, away=away, unreadable=observed.unreadable)
    decision = decide(view)
    events = Events()
    storyteller.Storyteller(events, LABEL).tell(decision, now=0.0)
    ((event, message),) = events.told
    assert (event, words in message) == (reason, True), message
    assert more in text_of(draw(await why(kube), NOW))
    assert more in page(observed, decision)["n1"]["problem"]


class Events(EventRecorder):
    """Keeps what is recorded: reasons and messages."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        self.told.append((reason, message))
        return True


def page(observed: Observed, decision: Decision | None) -> dict[str, Json]:
    """The nodes that a reader of the page is sent."""
    seen = Seen(observed.layouts or {}, observed.unreadable, decision)
    text = changes(None, page_picture(seen, (), Picture()))
    assert text is not None
    nodes: dict[str, Json] = json.loads(text)["nodes"]
    return nodes


def codes(module: Any) -> set[str]:
    """The reasons that a module of the agent may give."""
    found = {
        value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and value.isalpha() and value[0].isupper()
    }
    kinds = (each for each in vars(module).values() if isinstance(each, type))
    found |= {each.condition for each in kinds if hasattr(each, "condition")}
    return found


def test_every_reason_of_an_agent_has_advice() -> None:
    """Those of flags and folders that end the agent say themselves what to do."""
    said = codes(refusals) | codes(health) | codes(errors)
    said |= {client.MPS_DOWN, client.MPS_FAULT, client.MPS_WRONG_USER}
    themselves = {
        "AgentFailed",
        "BadSettings",
        "BadSimulation",
        "CdiUnwritable",
        "DirectoryVanished",
        "NotSupported",
        "NvmlFailed",
    }
    assert said - themselves <= advice.NODES.keys()
