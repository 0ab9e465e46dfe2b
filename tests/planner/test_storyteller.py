"""What pods and nodes are told: all, at most once a minute of a cause, again before it expires."""

from dataclasses import replace
from typing import Any

from mpslice.gpus import GpuUuid
from mpslice.kube.events import EventType, ObjectRef
from planner.model.plan import Cause, Placement, Plan, Refusal, Reservation
from planner.model.snapshot import Snapshot
from planner.view import Decision
from planner.words.explain import refusal_text
from planner.words.storyteller import AGAIN, REPEAT, Storyteller
from tests.planner.test_packing import node, pod

LABEL = ("part", "mps")
POD = pod("p", 20)
FULL = Refusal(POD, ((Cause.GPU_MEMORY, 2),), hole=(12, "n2", 0))
SNAPSHOT = Snapshot((node("n1", 80, 80), node("n2", 80)))


class Recorder:
    """Keeps what was recorded; `full` is a recorder that takes nothing more."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []
        self.full = False

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        if not self.full:
            self.said.append((about.name, reason, message))
        return not self.full


def telling() -> tuple[Storyteller, Recorder]:
    recorder: Any = Recorder()
    return Storyteller(recorder, LABEL), recorder


def refused(*refusals: Refusal, **fields: Any) -> Decision:
    return Decision(refused=refusals, snapshot=SNAPSHOT, **fields)


def carving(node: str = "n1", gpu: int = 1) -> Decision:
    return Decision(carving=(Placement(POD, node, (GpuUuid(f"{node}-{gpu}"),)),), snapshot=SNAPSHOT)


def test_refusal_is_told_once_with_counts_and_the_largest_hole() -> None:
    teller, recorder = telling()
    for second in range(3):
        teller.tell(refused(FULL), now=float(second))
    text = "20gb: 0 of 2 nodes: 2 GPUMemory (largest hole 12gb on n2 GPU 0)"
    assert recorder.said == [("p", "SliceUnavailable", text)]
    teller.tell(refused(), now=3.0)
    assert teller.due is None


def test_other_words_of_the_same_cause_are_told_after_a_minute_without_a_new_decision() -> None:
    teller, recorder = telling()
    teller.tell(refused(FULL), now=0.0)
    changed = refused(replace(FULL, hole=(15, "n1", 1)))
    teller.tell(changed, now=1.0)
    assert len(recorder.said) == 1
    assert teller.due == AGAIN
    teller.tell(changed, now=AGAIN)
    assert recorder.said[1][2].endswith("(largest hole 15gb on n1 GPU 1)")
    assert teller.due == AGAIN + REPEAT


def test_pod_that_waits_on_is_told_the_same_again_before_its_event_expires() -> None:
    teller, recorder = telling()
    teller.tell(refused(FULL), now=0.0)
    teller.tell(refused(FULL), now=REPEAT - 1)
    assert len(recorder.said) == 1
    for times in (1, 2):
        assert teller.due == times * REPEAT
        teller.tell(refused(FULL), now=times * REPEAT)
        assert recorder.said == [recorder.said[0]] * (times + 1)


def test_repetition_that_could_not_be_recorded_is_told_later() -> None:
    teller, recorder = telling()
    teller.tell(refused(FULL), now=0.0)
    recorder.full = True
    teller.tell(refused(FULL), now=REPEAT)
    assert teller.due is not None
    recorder.full = False
    teller.tell(refused(FULL), now=teller.due)
    assert len(recorder.said) == 2


def test_node_in_trouble_is_told_of_again_before_its_event_expires() -> None:
    teller, recorder = telling()
    trouble = Decision(snapshot=Snapshot(set_aside={"n1": "x is listed twice"}))
    for now in (0.0, REPEAT - 1, REPEAT, REPEAT + 1):
        teller.tell(trouble, now=now)
    assert recorder.said == [recorder.said[0]] * 2
    assert teller.due == 2 * REPEAT


def test_change_of_cause_is_told_at_once() -> None:
    teller, recorder = telling()
    teller.tell(carving(), now=0.0)
    teller.tell(refused(FULL), now=0.1)
    teller.tell(refused(replace(FULL, causes=((Cause.CPU, 2),))), now=0.2)
    assert [reason for _, reason, _ in recorder.said] == ["SliceCarving", *["SliceUnavailable"] * 2]


def test_another_place_is_no_other_cause() -> None:
    teller, recorder = telling()
    teller.tell(carving("n1"), now=0.0)
    teller.tell(carving("n2", 0), now=1.0)
    assert [text for _, _, text in recorder.said] == ["20gb on n1, GPU 1"]
    teller.tell(carving("n2", 0), now=AGAIN)
    assert recorder.said[1][2] == "20gb on n2, GPU 0"


def test_own_cause_goes_first() -> None:
    teller, recorder = telling()
    note = "n1 GPU 0 is kept for a/b"
    teller.tell(refused(replace(FULL, own=Cause.RESERVED, note=note)), now=0.0)
    assert recorder.said[0][2] == (
        "20gb: Reserved (n1 GPU 0 is kept for a/b), 0 of 2 nodes: "
        "2 GPUMemory (largest hole 12gb on n2 GPU 0)"
    )
    group = refusal_text(Refusal(POD, (), own=Cause.GROUP), "part=mps")
    assert group == "20gb: Group (the pods of its group do not fit all together)"


def test_pod_that_a_gpu_is_kept_for_is_told_where_it_waits() -> None:
    teller, recorder = telling()
    kept = Reservation(POD, "n1", (GpuUuid("n1-1"), GpuUuid("n1-0")))
    teller.tell(refused(FULL), now=0.0)
    teller.tell(refused(FULL, plan=Plan(reservations=(kept,))), now=0.1)
    assert recorder.said[1][2].endswith("; waits for n1 GPU 0, 1, which is kept for it")


def test_what_could_not_be_recorded_is_told_later() -> None:
    teller, recorder = telling()
    recorder.full = True
    teller.tell(refused(FULL), now=0.0)
    assert teller.due is not None
    recorder.full = False
    teller.tell(refused(FULL), now=teller.due)
    assert len(recorder.said) == 1


def test_trouble_of_a_node_that_could_not_be_recorded_is_told_later() -> None:
    teller, recorder = telling()
    recorder.full = True
    trouble = Decision(snapshot=Snapshot(set_aside={"n1": "the node is listed twice"}))
    teller.tell(trouble, now=0.0)
    assert teller.due is not None
    recorder.full = False
    teller.tell(trouble, now=teller.due)
    assert [name for name, _, _ in recorder.said] == ["n1"]


def test_place_in_between_does_not_have_the_same_cause_told_again() -> None:
    teller, recorder = telling()
    standing = Decision(plan=Plan((Placement(POD, "n1", (GpuUuid("n1-0"),)),)), snapshot=SNAPSHOT)
    for second, decision in enumerate((refused(FULL), standing, refused(FULL), standing)):
        teller.tell(decision, now=float(second))
    assert [reason for _, reason, _ in recorder.said] == ["SliceUnavailable"]


def test_node_whose_agent_is_away_is_told_of_once() -> None:
    teller, recorder = telling()
    away = Decision(away={"n1": "its node agent has been away for 120 seconds"}, snapshot=SNAPSHOT)
    for second in range(3):
        teller.tell(away, now=float(second))
    ((name, reason, text),) = recorder.said
    assert (name, reason) == ("n1", "NodeAgentAway")
    assert text == (
        "its node agent has been away for 120 seconds; pods are placed elsewhere. "
        "See `kubectl describe nodelayout n1`"
    )


def test_pod_that_waits_again_is_told_again() -> None:
    teller, recorder = telling()
    teller.tell(refused(FULL), now=0.0)
    teller.tell(refused(), now=1.0)
    teller.tell(refused(FULL), now=2.0)
    assert len(recorder.said) == 2


def test_trouble_of_a_node_is_told_once_and_again_after_it_was_well() -> None:
    teller, recorder = telling()
    bad = Snapshot(set_aside={"n1": "90gb are used on GPU 0, which has 80gb"})
    trouble = Decision(snapshot=bad, unreadable={"n2": "NodeLayout n2: x is listed twice"})
    for second in range(2):
        teller.tell(trouble, now=float(second))
    told = [
        (
            "n1",
            "NodeSetAside",
            "90gb are used on GPU 0, which has 80gb; its GPUs are not planned on",
        ),
        (
            "n2",
            "UnreadableLayout",
            "NodeLayout n2: x is listed twice; the node is left as it is",
        ),
    ]
    assert recorder.said == told
    teller.tell(Decision(), now=2.0)
    teller.tell(trouble, now=3.0)
    assert recorder.said == told * 2
