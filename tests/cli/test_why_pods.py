"""What has become of a pod, and what would help one that waits, tried on the planner's own plan."""

import json
from datetime import UTC, datetime

import pytest

from cli.observe import Observer
from cli.terminal import text_of
from cli.why.answer import Answer, State, as_json
from cli.why.ask import ask, target
from cli.why.draw import age, draw
from mpslice.kube.api import EVENTS, Json
from planner.model.pods import GATE
from tests.cli.fake_api import ALL, FakeApi, Grant, cluster, view
from tests.cli.objects import LABEL, available, event, gpu, layout, node, pod, taint

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def why(kube: FakeApi, name: str = "p") -> Answer:
    observer = Observer(kube, LABEL, "team-a", clock=lambda: NOW)
    return await ask(kube, observer, target(name), "team-a")


async def said(
    *pods: Json, nodes: tuple[Json, ...] = (), layouts: tuple[Json, ...] = ()
) -> tuple[Answer, str]:
    """The answer about the pod `p`, and what a person reads."""
    answer = await why(FakeApi(cluster(nodes=nodes, layouts=layouts, pods=pods)))
    return answer, text_of(draw(answer, NOW))


def waiting(reason: str, message: str = "") -> Json:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "state": state}]}


@pytest.mark.parametrize(
    ("made", "state", "reason", "text"),
    [
        (pod("p", 10, on="n1"), State.FINE, "Running", "it has its slice: 10gb on n1 GPU 1"),
        (
            pod("p", 10, on="n1", status={"phase": "Pending"}),
            State.ON_ITS_WAY,
            "Starting",
            "the kubelet starts it",
        ),
        (
            pod("p", 10, on="n1", status=waiting("ContainerCreating")),
            State.ON_ITS_WAY,
            "ContainerCreating",
            "container main does not run",
        ),
        (
            pod("p", 10, on="n1", status=waiting("ImagePullBackOff", "no such image")),
            State.FAILED,
            "ImagePullBackOff",
            "ImagePullBackOff: no such image",
        ),
        (
            pod("p", 10, on="n1", status={"phase": "Succeeded"}),
            State.FINE,
            "Succeeded",
            "it has succeeded",
        ),
        (
            pod(
                "p",
                10,
                on="n1",
                status={
                    "phase": "Failed",
                    "reason": "UnexpectedAdmissionError",
                    "message": "Allocate failed",
                },
            ),
            State.FAILED,
            "UnexpectedAdmissionError",
            "it has failed: Allocate failed",
        ),
        (
            pod("p", requests={"cpu": "1"}),
            State.NOT_CONCERNED,
            "NoSlice",
            "it asks for no slice",
        ),
        (
            pod("p", requests={"nividia.com/gpu-10gb": "1"}),
            State.NOT_CONCERNED,
            "NoSlice",
            "asks for nividia.com/gpu-10gb; nvidia.com/gpu-10gb is a slice",
        ),
        (
            pod("p", requests={"nvidia.com/gpu-512mb": "1"}),
            State.NOT_CONCERNED,
            "NoSlice",
            "nvidia.com/gpu-1gb is a slice",
        ),
    ],
)
async def test_pod_that_does_not_wait_for_a_slice_is_told_so(
    made: Json, state: State, reason: str, text: str
) -> None:
    used = layout("n1", gpu("n1", 0, 80), gpu("n1", 1, 80, (10, "team-a/p")))
    answer, lines = await said(made, nodes=(node("n1"),), layouts=(used,))
    assert (answer.state, answer.reason) == (state, reason)
    assert text in lines


async def test_pod_that_is_being_deleted_waits_for_nothing() -> None:
    gone = pod("p", 10)
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:59Z"
    answer, _ = await said(gone)
    assert (answer.state, answer.reason) == (State.FINE, "Terminating")


@pytest.mark.parametrize("scheduler_first", [False, True])
async def test_what_was_told_has_one_order_whoever_wrote_first(scheduler_first: bool) -> None:
    ours = available("GPUMemory", "said by the planner")
    theirs = {**ours, "type": "PodScheduled", "reason": "Unschedulable", "message": "0/5 nodes"}
    made = pod("p", 10, conditions=[theirs, ours] if scheduler_first else [ours, theirs])
    events = [event(made, reason, reason.lower()) for reason in ("Early", "Late")]
    listed = [(EVENTS, each) for each in (reversed(events) if scheduler_first else events)]
    answer = await why(FakeApi([*cluster(pods=[made]), *listed]))
    assert [each.message for each in answer.told] == [
        "GPUMemory: said by the planner",
        "Unschedulable: 0/5 nodes",
        "Early: early",
        "Late: late",
    ]


async def test_pod_on_its_way_says_where_and_quotes_the_scheduler() -> None:
    stands = layout("n1", gpu("n1", 0, 80, (10, "")))
    unbound = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu-10gb.",
    }
    made = pod("p", 10, conditions=[unbound])
    answer, lines = await said(made, nodes=(node("n1"),), layouts=(stands,))
    assert (answer.state, answer.reason) == (State.ON_ITS_WAY, "SliceReady")
    assert "10gb on n1, GPU 0" in answer.summary
    assert "Insufficient nvidia.com/gpu-10gb" in lines
    empty = layout("n1", gpu("n1", 0, 80))
    answer, _ = await said(pod("p", 10), nodes=(node("n1"),), layouts=(empty,))
    assert (answer.state, answer.reason) == (State.ON_ITS_WAY, "Carving")


async def test_pod_that_fits_only_where_the_agent_is_away_is_told_of_it() -> None:
    away = layout("n1", gpu("n1", 0, 80), ready=("Stopping", ""))
    answer, _ = await said(pod("p", 10), nodes=(node("n1"),), layouts=(away,))
    assert (answer.state, answer.reason) == (State.WAITS, "NotReady")
    assert "it fits only on n1, and its agent is away" in answer.summary


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        (available("SliceReady", "10gb on n1, GPU 0", status="True"), State.ON_ITS_WAY),
        (available("Carving", "10gb on n1, GPU 0: its slices are being made"), State.ON_ITS_WAY),
        (available("GPUMemory", "10gb: 0 of 1 nodes: 1 GPUMemory"), State.WAITS),
        (available("FromALaterVersion", "words"), State.WAITS),
    ],
)
async def test_with_a_namespaces_rights_the_condition_is_the_answer(
    condition: Json, state: State
) -> None:
    kube = FakeApi(cluster(pods=[pod("p", 10, conditions=[condition])]), view("team-a"))
    answer = await why(kube)
    assert (answer.state, answer.reason) == (state, condition["reason"])
    assert answer.summary == condition["message"]


async def test_planner_that_has_said_nothing_is_doubted_after_seconds() -> None:
    young = pod("p", 10, gates=[GATE], created="2026-01-01T11:59:58Z")
    answers = [
        await why(FakeApi(cluster(pods=[made]), view("team-a")))
        for made in (young, pod("p", 10, gates=[GATE]))
    ]
    assert [(a.state, a.reason) for a in answers] == [
        (State.ON_ITS_WAY, "New"),
        (State.WAITS, "NotPlanned"),
    ]


@pytest.mark.parametrize(
    ("others", "text"),
    [
        (["a.io/x"], "the scheduling gate a.io/x, which is not mpslice's"),
        (["a.io/x", "a.io/y"], "the scheduling gates a.io/x, a.io/y, which are not mpslice's"),
    ],
    ids=["one", "two"],
)
async def test_gates_of_others_are_named(others: list[str], text: str) -> None:
    answer = await why(FakeApi(cluster(pods=[pod("p", 10, gates=[*others, GATE])])))
    assert (answer.reason, answer.summary) == ("Gated", f"it waits for {text}")


async def test_events_are_quoted_with_their_age_and_those_that_may_not_be_read_are_left_out() -> (
    None
):
    made = pod("p", 90)
    told = event(made, "SliceUnavailable", "90gb: 0 of 1 nodes: 1 GPUTooSmall (largest 80gb)")
    objects = [*cluster(pods=[made]), (EVENTS, told)]
    lines = text_of(draw(await why(FakeApi(objects, view("team-a"))), NOW))
    assert "30s ago  event of mpslice-planner  SliceUnavailable: 90gb: 0 of 1 nodes" in lines
    answer = await why(FakeApi(objects, [Grant("pods", "team-a")]))
    assert answer.told == ()


async def test_remedies_are_what_the_planner_would_carry_out() -> None:
    """Two GPUs with 20gb left each: 20gb fit, 30gb do not; two pods of 30gb have to end."""
    full = layout(
        "n1",
        gpu("n1", 0, 80, (30, "team-a/a"), (30, "team-a/b")),
        gpu("n1", 1, 80, (60, "team-b/c")),
    )
    others = [
        pod("a", 30, on="n1"),
        pod("b", 30, on="n1"),
        pod("c", 60, namespace="team-b", on="n1", priority=1000),
    ]
    _, lines = await said(pod("p", 75), *others, nodes=(node("n1"),), layouts=(full,))
    helps = lines.partition("What would help\n")[2]
    assert "- a slice of 20gb instead of 75gb has a place now on n1\n" in helps
    assert "nvidia.com/gpu-20gb: 1\n" in helps
    assert "- the end of team-b/c (60gb on n1 GPU 1, priority 1000)" in helps
    without = [each for each in others if each["metadata"]["name"] != "c"]
    blocked = layout("n1", gpu("n1", 0, 80, (30, "team-a/a"), (30, "team-a/b")))
    _, lines = await said(pod("p", 75), *without, nodes=(node("n1"),), layouts=(blocked,))
    assert (
        "the end of team-a/a (30gb on n1 GPU 0, priority 0) and team-a/b (30gb on n1 GPU 0, "
        "priority 0)"
    ) in lines


async def test_toleration_that_would_not_be_enough_is_not_proposed() -> None:
    tainted = node("n1", taints=[taint("dedicated", "x")])
    small = layout("n1", gpu("n1", 0, 16))
    _, lines = await said(pod("p", 40), nodes=(tainted,), layouts=(small,))
    assert "toleration of dedicated" not in lines.partition("What would help")[2].partition("\n")[0]
    assert "lets the pod in" not in lines
    not_well = node("n1", taints=[taint("node.kubernetes.io/disk-pressure")])
    _, lines = await said(
        pod("p", 10), nodes=(not_well,), layouts=(layout("n1", gpu("n1", 0, 80)),)
    )
    assert "lets the pod in" not in lines


async def test_nodes_of_alike_answers_share_a_row_and_wide_names_each() -> None:
    names = [f"n{number}" for number in range(1, 31)]
    tainted = tuple(node(name, taints=[taint("dedicated", "x")]) for name in names)
    layouts = tuple(layout(name, gpu(name, 0, 80)) for name in names)
    answer, lines = await said(pod("p", 10), nodes=tainted, layouts=layouts)
    assert "  n1, n2, n3, n4 and 26 more  Taint  dedicated=x:NoSchedule\n" in lines
    wide = text_of(draw(answer, NOW, wide=True))
    assert sum(row.startswith("  n") for row in wide.splitlines()) == 30


async def test_json_has_the_whole_answer() -> None:
    kube = FakeApi(cluster(pods=[pod("p", 40)]), ALL)
    said = json.loads(json.dumps(as_json(await why(kube))))
    assert said["about"] == "Pod team-a/p"
    assert (said["state"], said["reason"]) == ("Waits", "NoNode")
    assert said["missingRights"] == {"rights": [], "commands": []}
    assert said["queue"] == {"place": 1, "of": 1, "ahead": []}


async def test_escapes_in_what_others_wrote_are_inert() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egpj.exe\r\nSECOND"
    made = pod("p", 10, conditions=[available("GPUMemory", evil)])
    answer = await why(FakeApi(cluster(pods=[made]), view("team-a")))
    lines = text_of(draw(answer, NOW))
    assert all(character.isprintable() or character == "\n" for character in lines)
    assert "\\x1b]0;owned\\x07\\x1b[2J\\u202egpj.exe" in lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (119, "119s"), (180, "3m"), (7300, "2h"), (400_000, "4d")]
)
def test_age_is_written_as_kubectl_does(seconds: float, text: str) -> None:
    assert age(seconds) == text


PREEMPTS = '{"preempting":{"node":"n1","gpus":["GPU-n1-0"],"until":"2026-01-01T12:01:30Z"}}'


@pytest.mark.parametrize("begun", [True, False])
async def test_pod_that_preempts_waits_for_the_end_of_others(begun: bool) -> None:
    """Only one whose annotation says so: whether the planner may evict pods is not known here."""
    notes = {"mpslice.io/progress": PREEMPTS} if begun else {}
    _, text = await said(
        pod("p", 10, gates=[GATE], priority=5, annotations=notes),
        pod("a", 8, on="n1"),
        pod("b", 8, on="n1"),
        nodes=(node("n1"),),
        layouts=(layout("n1", gpu("n1", 0, 16, (8, "team-a/a"), (8, "team-a/b"))),),
    )
    waits = "waits for the end of pods team-a/a, team-a/b on n1 GPU 0, which is kept for it"
    assert (waits in " ".join(text.split())) is begun
