"""One step of a search: nodes are filled anew where that gains something, else nothing happens."""

from planner.model.constraints import Resources
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing.backlog import Backlog
from planner.packing.budget import Budget
from planner.packing.fit import place
from planner.packing.order import units_of
from planner.packing.search import step
from planner.packing.state import State
from tests.planner.test_packing import node, on, pod


def drafted(snapshot: Snapshot, pods: list[Pod], first: int) -> State:
    """The first pods in planned order are placed, the others wait."""
    state = State(snapshot, pods, units_of(pods, snapshot))
    for number in range(first):
        assert place(state, number)
    return state


def stepped(state: State) -> bool:
    """One step on the first node."""
    backlog = Backlog(state)
    backlog.enroll(range(len(state.units)))
    return step(state, backlog, state.nodes[:1], Budget(1000)) > 0


def where(state: State) -> dict[str, str]:
    return {s.pod.name: s.node.name for seated in state.placed for s in seated}


def test_pods_that_use_more_of_the_memory_take_the_place_of_one() -> None:
    pods = [pod("a", 50), pod("b", 40), pod("c", 40)]
    state = drafted(Snapshot((node("n1", 80),)), pods, 1)
    assert stepped(state)
    assert where(state) == {"b": "n1", "c": "n1"}


def test_a_step_that_gains_nothing_takes_nobody_off_its_gpu() -> None:
    pods = [pod("a", 50), pod("b", 50)]
    state = drafted(Snapshot((node("n1", 80),)), pods, 1)
    before = state.placed[0]
    assert not stepped(state)
    assert where(state) == {"a": "n1"}
    assert state.placed[0] is before


def test_a_pod_gives_way_to_one_that_fits_nowhere_else_and_goes_elsewhere() -> None:
    pods = [
        pod("a", 50, requests=Resources(cpu_milli=2000)),
        pod("b", 50, requests=Resources(cpu_milli=1000), constraints=on("n1")),
    ]
    state = drafted(Snapshot((node("n1", 50), node("n2", 60))), pods, 1)
    assert where(state) == {"a": "n1"}
    assert stepped(state)
    assert where(state) == {"a": "n2", "b": "n1"}


def test_a_pod_is_not_filled_into_a_node_that_it_may_not_use() -> None:
    pods = [pod("a", 50), pod("b", 80, constraints=on("n2"))]
    state = drafted(Snapshot((node("n1", 80), node("n2", 40))), pods, 1)
    assert not stepped(state)
    assert where(state) == {"a": "n1"}


def test_memory_of_a_node_is_not_given_twice_in_one_filling() -> None:
    wants = Resources(memory=60)
    pods = [pod("a", 30), *(pod(name, 40, requests=wants) for name in "bc")]
    state = drafted(Snapshot((node("n1", 80, idle=Resources(memory=100)),)), pods, 1)
    assert stepped(state)
    assert where(state) == {"a": "n1", "b": "n1"}


def test_pod_of_no_gb_is_left_out_of_the_search() -> None:
    pods = [pod("a", 20), pod("none", 0)]
    snapshot = Snapshot((node("n1", 40),))
    state = State(snapshot, pods, units_of(pods, snapshot))
    assert [state.is_movable(number) for number in (0, 1)] == [True, False]
