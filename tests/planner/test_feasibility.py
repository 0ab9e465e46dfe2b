"""Which nodes a pod may use by their identity, case by case as the scheduler decides it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.feasibility.nodes import node_refusal, ports_clash
from planner.model.constraints import Constraints, Expression, HostPort, NodeTerm, Taint, Toleration
from planner.model.nodes import Node, NodeState
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.packing.books import NodeBook
from planner.packing.reach import Reach

NODE = Node("n1", labels={"zone": "a", "gen": "7", "odd": "1_0", "plus": "+3", "minus": "-2"})


def admits(node: Node = NODE, **constraints: object) -> bool:
    return node_refusal(Constraints(**constraints), node) is None  # type: ignore[arg-type]  # test data


def by_label(*expressions: Expression) -> tuple[NodeTerm, ...]:
    return (NodeTerm(labels=expressions),)


EXPRESSIONS = [
    (Expression("zone", "In", ("a", "b")), True),
    (Expression("zone", "In", ("b",)), False),
    (Expression("zone", "In"), False),
    (Expression("absent", "In", ("a",)), False),
    (Expression("zone", "NotIn", ("b",)), True),
    (Expression("absent", "NotIn", ("b",)), True),
    (Expression("absent", "NotIn"), False),
    (Expression("zone", "Exists"), True),
    (Expression("absent", "Exists"), False),
    (Expression("zone", "Exists", ("a",)), False),
    (Expression("absent", "DoesNotExist"), True),
    (Expression("zone", "DoesNotExist"), False),
    (Expression("gen", "Gt", ("6",)), True),
    (Expression("gen", "Gt", ("7",)), False),
    (Expression("gen", "Lt", ("8",)), True),
    (Expression("gen", "Lt", ("7",)), False),
    (Expression("gen", "Gt", ("5", "6")), False),
    (Expression("gen", "Gt", ("x",)), False),
    (Expression("gen", "Lt", (str(1 << 63),)), False),
    (Expression("absent", "Lt", ("8",)), False),
    (Expression("zone", "Gt", ("0",)), False),
    (Expression("odd", "Gt", ("0",)), False),
    (Expression("plus", "Gt", ("2",)), True),
    (Expression("zone", "Near", ("a",)), False),
    (Expression("zone", "In", ("a", "no label value!")), False),
    (Expression("zone", "NotIn", ("no label value!",)), False),
    (Expression("zone", "NotIn", ("x" * 64,)), False),
    (Expression("zone", "NotIn", ("",)), True),
    (Expression("minus", "Gt", ("-3",)), False),
]


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS)
def test_expression_selects_as_the_scheduler_has_it(expression: Expression, expected: bool) -> None:
    assert admits(affinity=by_label(expression)) is expected


FIELDS = [
    (Expression("metadata.name", "In", ("n1",)), True),
    (Expression("metadata.name", "In", ("n2",)), False),
    (Expression("metadata.name", "In", ("n1", "n2")), False),
    (Expression("metadata.name", "NotIn", ("n2",)), True),
    (Expression("metadata.name", "NotIn", ("n1",)), False),
    (Expression("metadata.name", "Exists"), False),
    (Expression("spec.unschedulable", "In", ("n1",)), False),
    (Expression("metadata.namespace", "In", ("",)), True),
]


@pytest.mark.parametrize(("field", "expected"), FIELDS)
def test_field_selects_by_name_alone(field: Expression, expected: bool) -> None:
    assert admits(affinity=(NodeTerm(fields=(field,)),)) is expected


def test_terms_are_alternatives_and_empty_ones_match_nothing() -> None:
    hit, miss = Expression("zone", "In", ("a",)), Expression("zone", "In", ("b",))
    assert admits(affinity=(*by_label(miss), *by_label(hit)))
    assert not admits(affinity=by_label(miss, hit))
    assert not admits(affinity=(NodeTerm(),))
    assert not admits(affinity=())
    assert not admits(affinity=(NodeTerm((hit,), (Expression("metadata.name", "In", ("n2",)),)),))


def test_node_selector_and_affinity_must_both_hold() -> None:
    hit, miss = Expression("zone", "In", ("a",)), Expression("zone", "In", ("b",))
    assert admits(node_selector=(("gen", "7"),), affinity=by_label(hit))
    assert not admits(node_selector=(("gen", "8"),), affinity=by_label(hit))
    assert not admits(node_selector=(("gen", "7"),), affinity=by_label(miss))


TAINTS = [
    (Taint("k", "v", "NoSchedule"), Toleration("k", "Equal", "v", "NoSchedule"), True),
    (Taint("k", "v", "NoSchedule"), Toleration("k", "", "v"), True),
    (Taint("k", "v", "NoSchedule"), Toleration("k", "Equal", "w"), False),
    (Taint("k", "v", "NoExecute"), Toleration("k", "Equal", "v", "NoSchedule"), False),
    (Taint("k", "v", "NoExecute"), Toleration("k", "Exists"), True),
    (Taint("k", "v", "NoExecute"), Toleration("", "Exists"), True),
    (Taint("k", "v", "NoExecute"), Toleration("other", "Exists"), False),
    (Taint("k", "v", "PreferNoSchedule"), Toleration("other", "Exists"), True),
    (Taint("k", "10", "NoSchedule"), Toleration("k", "Gt", "9"), True),
    (Taint("k", "10", "NoSchedule"), Toleration("k", "Gt", "10"), False),
    (Taint("k", "-1", "NoSchedule"), Toleration("k", "Lt", "0"), True),
    (Taint("k", "010", "NoSchedule"), Toleration("k", "Gt", "9"), False),
    (Taint("k", "-0", "NoSchedule"), Toleration("k", "Lt", "1"), False),
    (Taint("k", "10", "NoSchedule"), Toleration("k", "Gt", "+9"), False),
    (Taint("k", "", "NoSchedule"), Toleration("k", "Lt", "1"), False),
]


@pytest.mark.parametrize(("taint", "toleration", "expected"), TAINTS)
def test_taint_is_tolerated_as_the_scheduler_has_it(
    taint: Taint, toleration: Toleration, expected: bool
) -> None:
    assert admits(Node("n1", taints=(taint,)), tolerations=(toleration,)) is expected


def test_every_taint_needs_a_toleration() -> None:
    node = Node("n1", taints=(Taint("a", "", "NoSchedule"), Taint("b", "", "NoExecute")))
    assert not admits(node, tolerations=(Toleration("a", "Exists"),))
    assert admits(node, tolerations=(Toleration("a", "Exists"), Toleration("b", "Exists")))


def test_cordoned_node_takes_only_what_tolerates_that() -> None:
    node = Node("n1", unschedulable=True)
    assert node_refusal(Constraints(), node) is Cause.UNSCHEDULABLE
    key = "node.kubernetes.io/unschedulable"
    assert admits(node, tolerations=(Toleration(key, "Exists", "", "NoSchedule"),))
    assert not admits(node, tolerations=(Toleration(key, "Exists", "", "NoExecute"),))


PORTS = [
    (HostPort(80), HostPort(80), True),
    (HostPort(80), HostPort(81), False),
    (HostPort(80), HostPort(80, "UDP"), False),
    (HostPort(80, ip="10.0.0.1"), HostPort(80, ip="10.0.0.2"), False),
    (HostPort(80, ip="10.0.0.1"), HostPort(80), True),
    (HostPort(80), HostPort(80, ip="10.0.0.1"), True),
]


@pytest.mark.parametrize(("wanted", "taken", "expected"), PORTS)
def test_host_ports_clash_by_protocol_and_address(
    wanted: HostPort, taken: HostPort, expected: bool
) -> None:
    assert ports_clash([wanted], [taken]) is expected


expressions_of = st.sampled_from([expression for expression, _ in EXPRESSIONS])
fields_of = st.sampled_from([field for field, _ in FIELDS])
labels_of = st.fixed_dictionaries(
    {}, optional={"zone": st.sampled_from("ab"), "gen": st.sampled_from(["6", "7", "x"])}
)
nodes_of = st.builds(
    Node,
    st.sampled_from(["n1", "n2", "n3"]),
    labels=labels_of,
    taints=st.sets(st.sampled_from([taint for taint, _, _ in TAINTS]), max_size=2).map(tuple),
    unschedulable=st.booleans(),
    ready=st.booleans(),
    offers_gb=st.booleans(),
)
constraints_of = st.builds(
    Constraints,
    st.sets(st.sampled_from([("zone", "a"), ("gen", "7")]), max_size=1).map(tuple),
    st.one_of(
        st.none(),
        st.lists(
            st.builds(
                NodeTerm,
                st.lists(expressions_of, max_size=2).map(tuple),
                st.lists(fields_of, max_size=1).map(tuple),
            ),
            max_size=2,
        ).map(tuple),
    ),
    st.lists(st.sampled_from([toleration for _, toleration, _ in TAINTS]), max_size=2).map(tuple),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    nodes=st.lists(nodes_of, max_size=5, unique_by=lambda node: node.name),
    demands=st.lists(constraints_of, min_size=1, max_size=3),
)
def test_nodes_judged_by_their_class_are_judged_as_each_would_be(
    nodes: list[Node], demands: list[Constraints]
) -> None:
    books = [NodeBook(NodeState(node), order) for order, node in enumerate(nodes)]
    reach = Reach(books, [Pod("default", "p", constraints=each) for each in demands])
    for constraints in demands:
        each = [book for book in books if node_refusal(constraints, book.state.node) is None]
        assert sorted(reach.of(constraints)[1], key=lambda book: book.order) == each


def test_pod_that_asks_for_gb_needs_a_node_that_offers_it() -> None:
    without = replace(NODE, offers_gb=False)
    assert admits(gb=True)
    assert admits(without)
    assert node_refusal(Constraints(gb=True), without) is Cause.EXTENDED_RESOURCE
