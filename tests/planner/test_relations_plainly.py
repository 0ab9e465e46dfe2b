"""The relations of a pass beside a plain reading of the scheduler's code, whatever is booked."""

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.feasibility.relations import RelationBook
from planner.model.constraints import Constraints, Expression, PodTerm, Relations, Spread, Taint
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot
from tests.planner.plain_relations import NAMESPACES, plain_guard, plain_refusal
from tests.planner.test_relations import app

KEYS = ("zone", "host", "rack")
selectors = st.one_of(
    st.none(),
    st.just(()),
    st.sampled_from(["x", "y"]).map(app),
    st.just(app("x", "y")),
    st.just((Expression("app", "NotIn", ("x",)),)),
    st.just((Expression("app", "DoesNotExist"),)),
)
terms = st.builds(
    PodTerm,
    st.sampled_from(KEYS),
    selectors,
    st.sets(st.sampled_from(["one", "two"])).map(frozenset),
    st.one_of(st.none(), st.just(()), st.just((Expression("team", "In", ("a",)),))),
)
spreads = st.builds(
    Spread,
    st.sampled_from(KEYS),
    selectors,
    st.integers(1, 2),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
relations_of = st.builds(
    Relations,
    st.lists(terms, max_size=2).map(tuple),
    st.lists(terms, max_size=2).map(tuple),
    st.lists(spreads, max_size=2).map(tuple),
)
TAINT = Taint("x", "", "NoSchedule")
nodes_of = st.lists(
    st.builds(
        lambda zone, rack, tainted: (
            {"zone": zone, **({"rack": rack} if rack else {})},
            (TAINT,) if tainted else (),
        ),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["", "r"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
booleans = st.booleans()


@settings(max_examples=120, deadline=None)
@given(data=st.data(), raw=nodes_of)
def test_book_answers_as_the_filters_do_whatever_is_added_and_taken_back(
    data: st.DataObject, raw: list[tuple[dict[str, str], tuple[Taint, ...]]]
) -> None:
    nodes = {
        f"n{i}": Node(f"n{i}", labels={"host": f"n{i}", **labels}, taints=taints)
        for i, (labels, taints) in enumerate(raw)
    }
    pod_of = st.builds(
        lambda namespace, labels, relations, zone: Pod(
            namespace,
            "p",
            labels=labels,
            relations=relations,
            constraints=Constraints(node_selector=(("zone", "a"),) if zone else ()),
        ),
        st.sampled_from(["one", "two"]),
        st.sampled_from([{}, {"app": "x"}, {"app": "y"}]),
        relations_of,
        st.booleans(),
    )
    where = st.sampled_from(sorted(nodes))
    there = data.draw(st.lists(st.tuples(pod_of, where), max_size=4))
    pending = data.draw(st.lists(pod_of, min_size=1, max_size=3))
    by_node: dict[str, list[Pod]] = {}
    for pod, at in there:
        by_node.setdefault(at, []).append(pod)
    repelling = tuple(pod for pod, _ in there if pod.relations.anti_affinity)
    around = Neighbours(tuple(nodes.values()), by_node, repelling, NAMESPACES)
    subject = RelationBook(Snapshot(neighbours=around), pending)
    if not subject.active:
        return
    booked: list[tuple[Pod, str]] = []
    for _ in range(4):
        for pod in pending:
            for name, node in nodes.items():
                expected = plain_refusal(pod, node, nodes, there + booked) or plain_guard(
                    pod, node, nodes, there, booked
                )
                assert subject.refuses(pod, name) == expected
        takes_back: bool = data.draw(booleans)
        if booked and takes_back:
            subject.remove(*booked.pop())
        else:
            booked.append((data.draw(st.sampled_from(pending)), data.draw(where)))
            subject.add(*booked[-1])
