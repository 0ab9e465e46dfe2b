"""One step of a search: nodes are filled anew where that gains something, else nothing happens."""

from planner.model import Pod, Resources, Snapshot
from planner.packing.draft import Draft
from planner.packing.ledger import Ledger
from planner.packing.order import units_of
from planner.packing.search import step
from planner.packing.waiting import Waiting
from tests.planner.test_packing import node, on, pod


def drafted(snapshot: Snapshot, pods: list[Pod], first: int) -> Draft:
    """The first pods in planned order are seated, the others wait."""
    draft = Draft(Ledger(snapshot, pods), units_of(pods, snapshot))
    for number in range(first):
        assert draft.place(number)
    return draft


def stepped(draft: Draft) -> bool:
    """One step on the first node."""
    return step(draft, Waiting(draft, range(len(draft.units)), 1000), draft.ledger.nodes[:1])


def where(draft: Draft) -> dict[str, str]:
    return {s.pod.name: s.node.name for seated in draft.seated for s in seated}


def test_pods_that_use_more_of_the_memory_take_the_place_of_one() -> None:
    pods = [pod("a", 50), pod("b", 40), pod("c", 40)]
    draft = drafted(Snapshot((node("n1", 80),)), pods, 1)
    assert stepped(draft)
    assert where(draft) == {"b": "n1", "c": "n1"}


def test_a_step_that_gains_nothing_takes_nobody_off_its_gpu() -> None:
    pods = [pod("a", 50), pod("b", 50)]
    draft = drafted(Snapshot((node("n1", 80),)), pods, 1)
    before = draft.ledger.epoch  # counts on whenever something is taken back
    assert not stepped(draft)
    assert where(draft) == {"a": "n1"}
    assert draft.ledger.epoch == before


def test_a_pod_gives_way_to_one_that_fits_nowhere_else_and_goes_elsewhere() -> None:
    pods = [
        pod("a", 50, requests=Resources(cpu_milli=2000)),
        pod("b", 50, requests=Resources(cpu_milli=1000), constraints=on("n1")),
    ]
    draft = drafted(Snapshot((node("n1", 50), node("n2", 60))), pods, 1)
    assert where(draft) == {"a": "n1"}
    assert stepped(draft)
    assert where(draft) == {"a": "n2", "b": "n1"}


def test_a_pod_is_not_filled_into_a_node_that_it_may_not_use() -> None:
    pods = [pod("a", 50), pod("b", 80, constraints=on("n2"))]
    draft = drafted(Snapshot((node("n1", 80), node("n2", 40))), pods, 1)
    assert not stepped(draft)
    assert where(draft) == {"a": "n1"}


def test_memory_of_a_node_is_not_given_twice_in_one_filling() -> None:
    wants = Resources(memory=60)
    pods = [pod("a", 30), *(pod(name, 40, requests=wants) for name in "bc")]
    draft = drafted(Snapshot((node("n1", 80, idle=Resources(memory=100)),)), pods, 1)
    assert stepped(draft)
    assert where(draft) == {"a": "n1", "b": "n1"}
