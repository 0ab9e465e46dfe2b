"""What the page shows of a cluster, and what a reader is sent of it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from mpslice.nodelayout import Condition, ConditionType
from mpslice.slices import SliceSize
from planner.model.plan import Cause, Refusal
from planner.model.pods import GATE, Available, Pod
from planner.ui.changes import changes, restricted
from planner.ui.history import SAMPLES, History, Sample
from planner.ui.picture import MOST_ROWS, Picture, picture
from planner.ui.seen import Seen
from planner.view import Decision
from planner.words.explain import refusal_text
from tests.planner.ui.cluster import gpu, layout, of_gpus, seen, waiting

LABEL = "nos.nebuly.com/gpu-partitioning=mps"


def drawn(what: Seen, before: Picture | None = None) -> Picture:
    return picture(what, (), before or Picture())


def event(sent: Picture | None, new: Picture) -> dict[str, Any]:
    text = changes(sent, new)
    assert text is not None
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_gpus_are_shown_with_their_slices_and_holders() -> None:
    shown = event(None, drawn(seen([layout("n1")], [])))
    assert shown["first"] is True
    node = shown["nodes"]["n1"]
    assert node["ready"] is True
    assert [gpu["index"] for gpu in node["gpus"]] == list(range(8))
    assert node["gpus"][3] == {
        "index": 3,
        "product": "NVIDIA A100-SXM4-80GB",
        "gb": 85,
        "problem": "",
        "slices": [
            [10, "research/train-n1-3-0", "main"],
            [15, "team-a/train-n1-3-1", "main"],
            [5, "team-b/train-n1-3-2", "main"],
            [30],
        ],
        "making": [],
    }


def test_slices_that_are_being_made_are_shown() -> None:
    carved = layout("n1")
    wanted = replace(carved.spec.gpus[0], slices={SliceSize(20): 2})
    ahead = replace(carved, spec=replace(carved.spec, gpus=(wanted, *carved.spec.gpus[1:])))
    shown = event(None, drawn(seen([ahead], [])))
    assert shown["nodes"]["n1"]["gpus"][0]["making"] == [20, 20]


def test_a_node_in_trouble_says_what_it_is_in_the_agents_words() -> None:
    well = layout("n1")
    assert well.status is not None
    away = Condition(ConditionType.READY, False, "KubeletUnavailable", "no answer for 12 s")
    cases = {
        "KubeletUnavailable: no answer for 12 s": replace(
            well, status=replace(well.status, conditions=(away,))
        ),
        "no agent has reported yet": replace(well, status=None),
        "the node is being handed back": replace(well, spec=replace(well.spec, release=True)),
    }
    for problem, node in cases.items():
        row = event(None, drawn(Seen({"n1": node}, {}, Decision())))["nodes"]["n1"]
        assert (row["ready"], row["problem"]) == (False, problem)
    unreadable = drawn(Seen({}, {"n2": "NodeLayout n2: gpus is no list"}, Decision()))
    assert event(None, unreadable)["nodes"]["n2"]["problem"] == "NodeLayout n2: gpus is no list"


def test_the_queue_is_in_the_planners_order_with_places() -> None:
    pods = [
        waiting("young", 90, ago=10),
        waiting("old", 90, ago=100),
        waiting("important", 90, ago=5, priority=7),
        waiting("fits", 10, ago=1),
        waiting("held", 90, gates=(GATE, "other.example/gate"), ago=500),
    ]
    shown = event(None, drawn(seen([layout("n1")], pods)))
    assert list(shown["queue"]) == [
        "team-a/fits",
        "team-a/important",
        "team-a/old",
        "team-a/young",
        "team-a/held",
    ]
    assert shown["places"] == [1, 2, 3]
    assert shown["waiting"] == 5
    assert shown["queue"]["team-a/held"]["text"] == (
        "waits for other scheduling gates: other.example/gate"
    )


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_reads_as_in_the_event(cause: Cause) -> None:
    of_pods = (Cause.VOLUME, *list(Cause)[list(Cause).index(Cause.NO_NODE) :])
    own = cause if cause in of_pods else None
    causes = () if own is Cause.NO_NODE else ((cause if own is None else Cause.CPU, 3),)
    refusal = Refusal(waiting("p", 20), causes, own=own, note="a note" if own else "")
    decision = Decision(refused=(refusal,))
    row = event(None, drawn(Seen({}, {}, decision, label=LABEL)))["queue"]["team-a/p"]
    assert row["reason"] == str(cause)
    assert row["text"] == refusal_text(refusal, LABEL)
    # A pod that backs off, or of which a volume does not exist, has no place in the queue.
    assert (row["stand"] == 1) is (cause not in (Cause.BACKOFF, Cause.VOLUME))


def test_a_replica_that_stands_by_repeats_what_the_leader_wrote() -> None:
    told = Available(False, "GPUMemory", "90gb: 0 of 1 nodes; in the queue: first")
    pods = (
        waiting("told", 90, available=told),
        waiting("fresh", 90, ago=1),
        waiting("way", 10, available=Available(False, "Carving", "10gb on n1, GPU 0")),
        waiting("off", 10, available=Available(False, "Backoff", "10gb: Backoff")),
        replace(waiting("bound", 10), node="n1"),
        Pod("team-a", "without-slices"),
    )
    shown = event(None, drawn(Seen({}, {}, None, pods, LABEL, "mpslice-planner-0")))
    assert list(shown["queue"]) == ["team-a/way", "team-a/told", "team-a/fresh", "team-a/off"]
    assert shown["queue"]["team-a/told"]["text"] == told.message
    assert (shown["leads"], shown["leader"]) == (False, "mpslice-planner-0")


def test_a_change_is_sent_alone() -> None:
    layouts = [layout(f"n{number}") for number in range(50)]
    decision = seen(layouts, [waiting("p", 90)]).decision
    first = drawn(Seen({each.name: each for each in layouts}, {}, decision))
    freed = of_gpus("n7", gpu("n7", 0))
    second = drawn(
        Seen({each.name: each for each in (*layouts[:7], freed, *layouts[8:])}, {}, decision), first
    )
    sent = event(first, second)
    assert list(sent) == ["nodes"]
    assert list(sent["nodes"]) == ["n7"]
    assert changes(second, replace(second)) is None


def test_what_has_gone_is_sent_as_null() -> None:
    first = drawn(seen([layout("n1"), layout("n2")], [waiting("p", 90), waiting("q", 90)]))
    second = drawn(seen([layout("n1")], [waiting("q", 90)]), first)
    sent = event(first, second)
    assert sent["nodes"]["n2"] is None
    assert sent["queue"]["team-a/p"] is None
    assert sent["places"] == [1]


def test_rows_that_have_not_changed_are_the_same_objects() -> None:
    """So that a decision a second costs what it changed, however long the queue is."""
    pods = [waiting(f"p{number}", 90) for number in range(20)]
    first = drawn(seen([layout("n1")], pods))
    second = drawn(seen([layout("n1")], pods[1:]), first)
    assert all(second.queue[key] is first.queue[key] for key in second.queue)


def test_waiting_pods_of_other_namespaces_are_counted_and_not_shown() -> None:
    pods = [waiting("secret", 90, namespace="other", ago=100), waiting("mine", 90, ago=50)]
    whole = drawn(seen([layout("n1")], pods))
    mine = restricted(whole, frozenset({"team-a"}))
    text = changes(None, mine)
    assert text is not None
    assert "secret" not in text
    shown = json.loads(text)
    assert list(shown["queue"]) == ["team-a/mine"]
    assert shown["places"] == [2]
    assert shown["waiting"] == 2
    assert restricted(whole, frozenset({"team-a", "other"})) is whole
    # What comes and goes there is no event, but for the count.
    later = drawn(seen([layout("n1")], pods[1:]), whole)
    sent = changes(mine, restricted(later, frozenset({"team-a"})))
    assert sent is not None
    assert "secret" not in sent


def test_a_long_queue_is_cut_and_counted() -> None:
    refused = tuple(
        Refusal(waiting(f"p{number:05}", 90), ((Cause.GPU_MEMORY, 1),))
        for number in range(MOST_ROWS + 7)
    )
    shown = drawn(Seen({}, {}, Decision(refused=refused)))
    assert len(shown.queue) == MOST_ROWS
    assert shown.waiting == MOST_ROWS + 7


def test_events_are_one_line_of_ascii_whatever_a_message_says() -> None:
    hostile = "<script>alert(1)</script>\n\ndata: x\r\u2028\x1b[31m\udcff é"
    refusal = Refusal(waiting("x" * 253, 90), (), own=Cause.BACKOFF, note=hostile)
    text = changes(None, drawn(Seen({}, {}, Decision(refused=(refusal,)))))
    assert text is not None
    assert text.isascii()
    assert text.isprintable()
    assert hostile in json.loads(text)["queue"][refusal.pod.key]["text"]


def test_the_last_hour_is_kept_in_bounded_memory() -> None:
    history = History()
    for number in range(1000):
        history.add(Sample(float(number), 1, 2, 0))
    assert len(history.samples) == SAMPLES
    assert history.samples[-1].at == 999
    shown = event(None, picture(Seen(), history.samples, Picture()))
    assert shown["history"][-1] == [999.0, 1, 2, 0]
