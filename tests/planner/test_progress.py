"""A pod's way to its slice: the table of steps, their deadlines, and what a restart knows."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mpslice.slices import SliceSize
from planner.decide import decide
from planner.model.pods import GATE, Pod, SliceClaim
from planner.progress.course import Course, begin
from planner.progress.machine import (
    CARVE,
    FIRST_BACKOFF,
    GATE_REFUSALS,
    LEGAL,
    LONGEST_BACKOFF,
    NEW,
    PATIENCE,
    SILENCE,
    TRIES,
    IllegalStep,
    Phase,
    Progress,
    Refused,
    back_off,
    by_clock,
    carve,
    elapse,
    next_deadline,
    offer,
    refuses_everywhere,
    wait,
)
from planner.progress.note import Note, note_text, read_note, time_text, wanted_note
from planner.view import View
from planner.writes.actions import Inform, Nominate
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POD = Pod("default", "p", uid="p")
GATED = replace(POD, gates=(GATE,))
CPU = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu-10gb."
NO_CLAIM = '0/3 nodes are available: persistentvolumeclaim "data" not found.'


def after(
    progress: Progress, pod: Pod = POD, refused: Refused | None = None, **ago: float
) -> Progress:
    return elapse(progress, pod, refused, NOW + timedelta(**ago))[0]


def saying(verdict: str) -> Pod:
    return replace(POD, unschedulable=verdict)


def test_every_phase_is_reached_and_left_again() -> None:
    assert set(LEGAL) == set(Phase)
    assert {phase for phases in LEGAL.values() for phase in phases} == set(Phase)
    assert all(phases - {phase} for phase, phases in LEGAL.items())


def test_a_step_that_the_table_does_not_have_is_refused() -> None:
    carving = carve(NEW, "n1", NOW, missing=True)
    with pytest.raises(IllegalStep, match="from Carving to Backoff"):
        back_off(carving, NOW, "no reason")
    with pytest.raises(IllegalStep, match="from Backoff to Offered"):
        offer(back_off(NEW, NOW, "no"), POD, "n1", NOW)


def test_carve_that_takes_too_long_gives_the_place_up_and_names_the_node() -> None:
    carving = carve(NEW, "n1", NOW, missing=True)
    assert elapse(carving, GATED, None, NOW + CARVE - timedelta(seconds=1)) == (carving, "")
    progress, node = elapse(carving, GATED, None, NOW + CARVE)
    assert (progress.phase, node) == (Phase.PENDING, "n1")


def test_deadline_of_a_carve_counts_from_its_begin_on_that_node() -> None:
    carving = carve(NEW, "n1", NOW, missing=True)
    assert carve(carving, "n1", NOW + timedelta(seconds=9), missing=True) is carving
    moved = carve(carving, "n2", NOW + timedelta(seconds=9), missing=True)
    assert moved.until == NOW + timedelta(seconds=9) + CARVE


def test_pod_that_waits_for_its_group_alone_has_no_deadline() -> None:
    assert carve(NEW, "n1", NOW, missing=False).until is None


def test_time_for_binding_counts_once_the_gate_is_gone() -> None:
    offered = offer(NEW, GATED, "n1", NOW)
    assert offered.until is None
    later = NOW + timedelta(seconds=5)
    assert offer(offered, POD, "n1", later).until == later + SILENCE


def test_refusal_on_a_node_leads_to_another_and_the_third_to_a_pause() -> None:
    progress = NEW
    for number, node in enumerate(("n1", "n2", "n3"), start=1):
        offered = offer(progress, POD, node, NOW)
        heard = after(offered, saying(CPU))
        assert heard.until == NOW + PATIENCE
        progress = after(heard, saying(CPU), seconds=10)
        assert progress.phase is (Phase.PENDING if number < TRIES else Phase.BACKOFF)
    assert progress.avoided == ("n1", "n2", "n3")
    assert progress.words == CPU


def test_pod_without_an_answer_is_tried_elsewhere() -> None:
    progress = after(offer(NEW, POD, "n1", NOW), seconds=30)
    assert progress.phase is Phase.PENDING
    assert progress.avoided == ("n1",)


def test_refusal_that_is_not_of_nodes_leads_to_a_pause_at_once() -> None:
    offered = offer(NEW, saying(NO_CLAIM), "n1", NOW)
    progress = after(offered, saying(NO_CLAIM), seconds=10)
    assert progress.phase is Phase.BACKOFF
    assert progress.avoided == ()
    assert progress.words == NO_CLAIM


def test_pause_doubles_up_to_five_minutes() -> None:
    progress, pauses = NEW, []
    for _ in range(8):
        progress = back_off(progress, NOW, "no")
        assert progress.until is not None
        pauses.append(progress.until - NOW)
        progress = after(progress, seconds=300)
    assert pauses[:3] == [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF]
    assert pauses[-1] == LONGEST_BACKOFF


def test_pause_ends_early_when_the_missing_claim_is_there() -> None:
    resting = back_off(NEW, NOW, NO_CLAIM)
    assert after(resting, saying(NO_CLAIM), seconds=1) is resting
    assert after(resting, saying(CPU), seconds=1).phase is Phase.PENDING


def test_pause_goes_on_while_the_scheduler_refuses_the_pod_everywhere() -> None:
    resting = back_off(NEW, NOW, NO_CLAIM)
    again = after(resting, saying(NO_CLAIM), seconds=10)
    assert (again.phase, again.attempts) == (Phase.BACKOFF, 2)


def test_time_for_binding_does_not_count_while_the_gate_could_not_be_written() -> None:
    """While it is written the pod counts as one without a gate."""
    offered = offer(NEW, POD, "n1", NOW)
    failed = after(offered, GATED, seconds=1)
    assert (failed.phase, failed.until) == (Phase.OFFERED, None)
    assert offer(failed, POD, "n1", NOW + SILENCE).until == NOW + SILENCE + SILENCE


def test_deadline_that_has_passed_wakes_nobody() -> None:
    later = NOW + timedelta(seconds=5)
    every = {"a": offer(NEW, POD, "n1", NOW), "b": offer(NEW, POD, "n1", later)}
    assert next_deadline(every, NOW) == NOW + SILENCE
    assert next_deadline(every, NOW + SILENCE) == later + SILENCE
    assert next_deadline(every, NOW + timedelta(hours=1)) is None


def test_gate_that_cannot_be_taken_away_leads_to_a_pause_and_then_one_refusal_does() -> None:
    offered = offer(NEW, GATED, "n1", NOW)
    few, many = Refused(GATE_REFUSALS - 1, "denied"), Refused(GATE_REFUSALS, "denied by quota")
    assert after(offered, GATED, few) is offered
    resting = after(offered, GATED, many)
    assert resting.phase is Phase.BACKOFF
    assert resting.words == "its scheduling gate cannot be taken away: denied by quota"
    offered = offer(after(resting, GATED, many, seconds=10), GATED, "n1", NOW)
    assert after(offered, GATED, many) is offered, "it is asked again first"
    assert after(offered, GATED, Refused(11, "denied")).phase is Phase.BACKOFF


@pytest.mark.parametrize(
    ("begin", "lasts"),
    [
        (lambda now: carve(NEW, "n1", now, missing=True), CARVE),
        (lambda now: offer(carve(NEW, "n1", now, missing=True), POD, "n1", now), SILENCE),
        (lambda now: back_off(NEW, now, "no"), FIRST_BACKOFF),
        (lambda now: back_off(replace(NEW, attempts=20), now, "no"), LONGEST_BACKOFF),
    ],
)
def test_deadline_of_a_clock_that_was_ahead_is_no_further_away_than_the_phase_lasts(
    begin: Callable[[datetime], Progress], lasts: timedelta
) -> None:
    ahead = begin(NOW + timedelta(minutes=10))
    assert by_clock(ahead, NOW).until == NOW + lasts
    right = begin(NOW)
    assert by_clock(right, NOW) is right
    assert by_clock(right, NOW + timedelta(minutes=10)) is right


def test_moments_of_a_clock_that_was_ahead_are_now() -> None:
    later = NOW + timedelta(minutes=10)
    ahead = replace(NEW, nominated=later, nominations=4, since=later, reserving=later)
    told = by_clock(ahead, NOW)
    assert (told.nominated, told.since, told.reserving) == (NOW, NOW, NOW)
    course = begin(
        [replace(POD, claims=(SliceClaim("main", SliceSize(10), 0),))], {"p": ahead}, {}, {}, NOW
    )
    assert course.every["p"] == told


def test_lost_place_ends_every_phase_but_a_pause() -> None:
    assert wait(carve(NEW, "n1", NOW, missing=True)) == NEW
    assert wait(offer(NEW, POD, "n1", NOW)) == NEW


@pytest.mark.parametrize(
    ("verdict", "everywhere"),
    [(NO_CLAIM, True), (CPU, False), ("", False), ("no nodes available to schedule pods", False)],
)
def test_refusal_of_all_nodes_at_once_is_told_by_its_words(verdict: str, everywhere: bool) -> None:
    assert refuses_everywhere(verdict) is everywhere


def test_restarted_planner_reads_what_the_last_one_knew() -> None:
    tried = replace(NEW, avoided=("n1", "n2"), since=NOW, reserving=NOW + timedelta(minutes=5))
    resting = back_off(tried, NOW, CPU)
    note = read_note(note_text(resting, "n3"))
    assert note.nominated == "n3"
    assert note.progress == resting
    assert note_text(note.progress, "n3") == note_text(resting, "n3")


def test_pod_that_just_comes_and_goes_is_never_written_to() -> None:
    assert note_text(NEW) == note_text(carve(NEW, "n1", NOW, missing=True)) == ""
    assert note_text(offer(NEW, POD, "n1", NOW)) == ""


def test_annotation_of_a_pause_that_is_over_is_left_as_it_is() -> None:
    resting = back_off(NEW, NOW, NO_CLAIM)
    pod = replace(POD, progress=note_text(resting))
    assert wanted_note(pod, after(resting, pod, seconds=10), "") == pod.progress


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "5", '{"backoff":{}}', '{"backoff":{"until":"x"}}']
)
def test_annotation_that_is_not_ours_says_nothing(text: str) -> None:
    assert read_note(text).progress == NEW


HOSTILE = [
    "[" * 60_000,
    '{"a":' * 3_000,
    '{"since":"' + "2" * 70_000,
    '{"since":"0001-01-01T00:00:00Z"}',
    '{"since":"9999-12-31T23:59:59Z"}',
    '{"reserving":"0001-01-01T00:00:00+14:00"}',
    '{"preempting":{"node":"n1","gpus":["GPU-1"],"until":"9999-12-31T23:59:59-10:00"}}',
    '{"backoff":{"attempts":1e400,"until":"2026-01-01T12:00:10Z"}}',
    '{"backoff":{"attempts":1,"until":"0001-01-01T00:00:00Z"}}',
    '{"nominated":"\\ud800"}',
    '{"backoff":{"attempts":1}}',
    '{"backoff":{"attempts":1,"until":"2026-01-01T11:00:10Z","words":"\\ud800"}}',
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40])
@pytest.mark.parametrize("preemption", [False, True])
def test_annotation_of_a_hostile_pod_says_nothing_and_stops_no_decision(
    text: str, preemption: bool
) -> None:
    """Everybody's pods wait for the decision, and everybody may write annotations."""
    assert read_note(text) == Note()
    big = replace(a_pod("big", 80), progress=text, priority=5)
    pods = replace(a_pod("small", 10), progress=text), big, a_pod("held", 20, node="n1")
    layout = a_layout(used=[(20, "default/held")], free={10: 1})
    nodes = (a_node(shows={20: 1, 10: 1}),)
    view = View(nodes, {"n1": layout}, pods, LABEL, now=NOW, preemption=preemption)
    decision = decide(view)
    placed = {placement.pod.name for placement in decision.plan.placements}
    assert placed | {refusal.pod.name for refusal in decision.refused} == {"small", "big"}
    later = replace(view, now=NOW + timedelta(hours=1), progress=decision.progress)
    for action in (*decision.actions, *decide(later).actions):
        if isinstance(action, Inform | Nominate):
            assert (action.note or "").encode() is not None


def test_hold_of_more_gpus_than_the_pod_has_slices_is_not_one_of_ours() -> None:
    later = time_text(NOW + timedelta(seconds=30))
    text = f'{{"preempting":{{"node":"n1","gpus":["GPU-1","GPU-1"],"until":"{later}"}}}}'
    pod = replace(a_pod("p", 10), progress=text)
    layout = a_layout(used=[(80, "default/held")])
    nodes, held = (a_node(shows={80: 1}),), a_pod("held", 80, node="n1")
    view = View(nodes, {"n1": layout}, (pod, held), LABEL, now=NOW, preemption=True)
    assert [refusal.pod.name for refusal in decide(view).refused] == ["p"]


def test_number_of_pauses_that_somebody_made_up_counts_as_a_million() -> None:
    text = '{"backoff":{"attempts":' + "9" * 40 + ',"until":"2026-01-01T12:00:10Z"}}'
    assert read_note(text).progress.attempts == 1_000_000


def test_nomination_is_late_if_it_is_made_when_the_gate_is_gone_and_stays_so() -> None:
    gated = a_pod("p", 10)
    assert wanted_note(gated, NEW, "n1", late=False) == '{"nominated":"n1"}'
    text = wanted_note(replace(gated, gates=()), NEW, "n1", late=True)
    assert text == '{"nominated":"n1","late":true}'
    assert read_note(text) == Note(nominated="n1", late=True)
    assert wanted_note(gated, NEW, "", late=True) == ""


def test_reservation_is_known_of_the_pod_and_of_its_group() -> None:
    """What a group has beside its minimum reserves for itself alone."""
    pods = [replace(POD, uid=uid, group="g") for uid in ("a", "b")]
    later = NOW + timedelta(minutes=1)
    course = Course({"a": replace(NEW, reserving=later), "b": replace(NEW, reserving=NOW)})
    assert course.reserving(pods) == {"a": later, "b": NOW, f"{POD.namespace}/g": NOW}
