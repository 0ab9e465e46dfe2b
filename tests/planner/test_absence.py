"""When a node is not to be planned on for the moment, with a clock of our own."""

from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from mpslice.nodelayout import KUBELET_UNAVAILABLE, STOPPING, ConditionType
from planner.state.absence import AGAIN, RETURN, Absence, Absences, as_if_there
from tests.planner.test_decide import a_layout, a_node, not_ready

AWAY = {"n1": Absence()}
GONE = {"n1": Absence(awaited=False, problem="its node agent has been away for 120 seconds")}


def test_agent_is_away_when_its_slices_have_not_been_shown_for_a_while() -> None:
    absences, layouts = Absences(patience=2.0), {"n1": a_layout(free={10: 1})}
    assert absences.watch([a_node()], layouts, 100.0) == {}
    assert absences.due() == 102.0
    assert absences.watch([a_node()], layouts, 101.9) == {}
    assert absences.watch([a_node()], layouts, 102.0) == AWAY


def test_agent_that_was_back_in_between_is_waited_for_anew() -> None:
    absences, layouts = Absences(patience=2.0), {"n1": a_layout(free={10: 1})}
    absences.watch([a_node()], layouts, 100.0)
    assert absences.watch([a_node(shows={10: 1})], layouts, 101.0) == {}
    assert absences.due() is None
    assert absences.watch([a_node()], layouts, 102.0) == {}


def test_agent_that_stays_away_is_not_waited_for_and_told_of() -> None:
    absences, layouts = Absences(patience=2.0), {"n1": a_layout(free={10: 1})}
    absences.watch([a_node()], layouts, 0.0)
    assert absences.watch([a_node()], layouts, 2.0) == AWAY
    assert absences.due() == RETURN
    assert absences.watch([a_node()], layouts, RETURN) == GONE
    assert absences.due() is None


def test_node_without_slices_has_lost_none() -> None:
    assert Absences(patience=0.0).watch([a_node()], {"n1": a_layout()}, 100.0) == {}


def test_node_that_shows_some_of_its_sizes_has_its_agent() -> None:
    layouts = {"n1": a_layout(free={10: 1, 20: 1})}
    assert Absences(patience=0.0).watch([a_node(shows={20: 1})], layouts, 1.0) == {}


@pytest.mark.parametrize("reason", [STOPPING, KUBELET_UNAVAILABLE])
def test_agent_that_says_so_is_away_at_once(reason: str) -> None:
    layouts = {"n1": not_ready(a_layout(), reason)}
    assert Absences().watch([a_node()], layouts, 0.0) == AWAY


def test_agent_whose_trouble_stays_is_not_waited_for() -> None:
    layouts = {"n1": not_ready(a_layout(free={10: 1}), "ForeignPartitioner")}
    assert Absences().watch([a_node(shows={10: 1})], layouts, 0.0) == {}


def test_layout_is_read_as_if_the_agent_were_there() -> None:
    there = as_if_there(not_ready(a_layout(), STOPPING)).status
    assert there is not None
    assert there.is_true(ConditionType.READY)
    lasting = not_ready(a_layout(), "ForeignPartitioner")
    assert as_if_there(lasting) == lasting


def test_agent_that_acknowledges_no_layout_is_away_after_a_while() -> None:
    """As one that crashed before any slice stood, of which the node shows nothing."""
    absences, layouts = Absences(), {"n1": a_layout(spec={10: 1}, generation=2, observed=1)}
    assert absences.watch([a_node()], layouts, 0.0) == {}
    assert absences.due() == 30.0
    silent = "its node agent has not taken the layout for 30 seconds"
    assert absences.watch([a_node()], layouts, 30.0) == {"n1": Absence(problem=silent)}
    late = Absence(awaited=False, problem=silent)
    assert absences.watch([a_node()], layouts, RETURN) == {"n1": late}
    layouts = {"n1": a_layout(free={10: 1}, generation=2)}
    assert absences.watch([a_node(shows={10: 1})], layouts, RETURN + 1) == {}


def test_agent_that_acknowledges_one_layout_after_the_other_is_there() -> None:
    absences = Absences()
    for generation in range(2, 12):
        layouts = {"n1": a_layout(spec={10: 1}, generation=generation, observed=generation - 1)}
        assert absences.watch([a_node()], layouts, generation * 20.0) == {}


def test_layout_that_the_api_server_refuses_is_tried_again_later() -> None:
    absences, layouts = Absences(), {"n1": a_layout()}
    absences.refused("n1", "denied by policy x", 0.0)
    assert absences.watch([a_node()], layouts, 0.0) == {}
    absences.refused("n1", "denied by policy x", 29.0)
    assert absences.watch([a_node()], layouts, 29.0) == {}
    absences.refused("n1", "denied by policy x", 30.0)
    refused = Absence(awaited=False, problem="its layout cannot be written (denied by policy x)")
    assert absences.watch([a_node()], layouts, 30.0) == {"n1": refused}
    assert absences.due() == 30.0 + AGAIN
    assert absences.watch([a_node()], layouts, 30.0 + AGAIN) == {}
    absences.refused("n1", "denied by policy x", 31.0 + AGAIN)
    assert absences.watch([a_node()], layouts, 31.0 + AGAIN) == {"n1": refused}
    absences.written("n1")
    assert absences.watch([a_node()], layouts, 32.0 + AGAIN) == {}


def test_single_refusal_is_forgotten() -> None:
    """As of a layout whose pod is gone by then; the next one counts from its own time."""
    absences, layouts = Absences(), {"n1": a_layout()}
    absences.refused("n1", "denied by policy x", 0.0)
    for now in (0.0, 30.0, AGAIN, 2 * AGAIN):
        assert absences.watch([a_node()], layouts, now) == {}
    absences.refused("n1", "denied by policy x", 3600.0)
    assert absences.watch([a_node()], layouts, 3600.0) == {}


def test_gpu_that_is_sick_does_not_make_its_agent_away() -> None:
    """Nothing of it is offered, and the other GPU is empty."""
    layout = a_layout(free={10: 1})
    assert layout.status is not None
    (sick,) = layout.status.gpus
    well = replace(sick, uuid=GpuUuid("n1-well"), index=1, slices=())
    gpus = (replace(sick, healthy=False, reason="XidError"), well)
    layouts = {"n1": replace(layout, status=replace(layout.status, gpus=gpus))}
    assert Absences(patience=0.0).watch([a_node()], layouts, 1.0) == {}


def test_node_that_is_dead_or_handed_back_is_no_matter_of_its_agent() -> None:
    dead, layouts = a_node(ready=False), {"n1": a_layout(spec={10: 1}, generation=2, observed=1)}
    released = {"n1": a_layout(release=True, generation=2, observed=1)}
    absences = Absences(silence=0.0)
    assert absences.watch([dead], layouts, 0.0) == {}
    assert absences.watch([a_node()], released, 0.0) == {}
