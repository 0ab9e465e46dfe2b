"""Objects that their creators make as long as the API server takes them.

What an answer costs is counted where it can be; elsewhere the sizes are such that an answer which
looks at everything afresh for each node or pod would take minutes, beyond the limit of a test.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.decide import decide
from planner.feasibility import nodes as identity
from planner.feasibility import selectors
from planner.feasibility.nodes import clashing, node_refusal, ports_clash, selects, tolerates_taints
from planner.feasibility.selectors import all_hold, holds
from planner.model.constraints import (
    ANY_ADDRESS,
    FEW,
    Constraints,
    Expression,
    HostPort,
    NodeTerm,
    PodTerm,
    Relations,
    Taint,
    Toleration,
    kept,
)
from planner.model.nodes import Node
from planner.model.pods import Pod
from planner.state.parse_relations import parse_selector
from planner.state.parse_requests import host_ports
from planner.state.preemptible import parse_budget
from planner.state.volumes import Claim, resolve
from planner.view import View
from tests.planner.test_decide import LABEL, a_layout, a_node, a_pod

HOST = "kubernetes.io/hostname"
KEYS = ("a", "b", "c", "d")
VALUES = ("", "1", "7", "x", "1.5")

texts = st.sampled_from(VALUES)
expressions = st.builds(
    Expression,
    st.sampled_from(KEYS),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near"]),
    st.lists(texts, max_size=FEW + 4).map(tuple)
    | st.lists(texts, max_size=1).map(tuple)
    | st.just(()),
)
labels = st.dictionaries(st.sampled_from((*KEYS, "e", "f", "g", "h")), texts)


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], Counted]:
    def count(module: object, name: str) -> Counted:
        double = Counted(getattr(module, name))
        monkeypatch.setattr(module, name, double)
        return double

    return count


@given(st.lists(expressions, max_size=2 * FEW).map(tuple), labels)
def test_many_requirements_together_say_what_each_of_them_says(
    requirements: tuple[Expression, ...], labels: dict[str, str]
) -> None:
    each = all(holds(requirement, labels) for requirement in requirements)
    assert all_hold(kept(requirements), labels) is each
    assert selectors._ByKey(requirements).hold(labels) is each


@given(
    st.lists(
        st.builds(
            Toleration,
            st.sampled_from(["", "a", "b"]),
            st.sampled_from(["", "Equal", "Exists", "Gt", "Lt", "Near"]),
            st.sampled_from(["", "x", "5", "7", "07"]),
            st.sampled_from(["", "NoSchedule", "NoExecute"]),
        ),
        max_size=3 * FEW,
    ).map(tuple),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["", "x", "4", "6", "9"]),
    st.sampled_from(["NoSchedule", "NoExecute"]),
)
def test_many_tolerations_tolerate_what_one_of_them_tolerates(
    tolerations: tuple[Toleration, ...], key: str, value: str, effect: str
) -> None:
    taint = Taint(key, value, effect)
    anyone = any(identity._matches(each, taint) for each in tolerations)
    assert tolerates_taints(Constraints(tolerations=tolerations), Node("n", taints=(taint,))) is (
        anyone
    )
    few = identity._ByTaint(tolerations).of(taint)
    assert any(identity._matches(each, taint) for each in few) is anyone


@given(
    st.lists(
        st.builds(NodeTerm, st.lists(expressions, max_size=3).map(tuple)), max_size=3 * FEW
    ).map(tuple),
    labels,
)
def test_many_terms_match_what_one_of_them_matches(
    terms: tuple[NodeTerm, ...], labels: dict[str, str]
) -> None:
    node = Node("n", labels=labels)
    each = any(selects(Constraints(affinity=(term,)), node) for term in terms)
    assert selects(Constraints(affinity=terms), node) is each
    few = tuple(identity._ByLabel(terms).of(node))
    assert any(selects(Constraints(affinity=(term,)), node) for term in few) is each


ports = st.lists(
    st.builds(
        HostPort,
        st.integers(1, 3),
        st.sampled_from(["TCP", "UDP"]),
        st.sampled_from([ANY_ADDRESS, "10.0.0.1", "10.0.0.2"]),
    ),
    max_size=4,
)


@given(ports, ports)
def test_ports_clash_as_each_pair_of_them_does(
    wanted: list[HostPort], taken: list[HostPort]
) -> None:
    def clash(one: HostPort, other: HostPort) -> bool:
        same = (one.port, one.protocol) == (other.port, other.protocol)
        return same and (one.ip == other.ip or ANY_ADDRESS in (one.ip, other.ip))

    found = [want for want in wanted if any(clash(want, have) for have in taken)]
    assert list(clashing(wanted, taken)) == found
    assert ports_clash(wanted, taken) is bool(found)


def test_records_with_long_lists_are_equal_whatever_their_lists_are_made_from() -> None:
    values = tuple(str(number) for number in range(100))
    one, other = Expression("a", "In", values), Expression("a", "In", kept(values))
    assert one == other
    assert hash(one) == hash(other) == hash(Expression("a", "In", tuple(values)))
    assert one.values == values
    assert pickle.loads(pickle.dumps(one.values)) == values


def test_selector_with_many_keys_is_not_gone_through_for_each_pod(
    counted: Callable[[object, str], Counted],
) -> None:
    """Nor is anything as long as the selector kept for each of them."""
    many = 20_000
    selector = tuple(Expression(f"k{number}", "DoesNotExist") for number in range(many))
    wanted = parse_selector(
        {
            "matchExpressions": [
                *({"key": each.key, "operator": each.operator} for each in selector),
                {"key": "app", "operator": "Exists"},
            ]
        }
    )
    term = PodTerm(HOST, wanted, frozenset({"default"}))
    around = [
        Pod("default", f"o{number}", uid=f"o{number}", node="n0", labels={"app": f"a{number}"})
        for number in range(2_000)
    ]
    pod = replace(a_pod("p", 10), relations=Relations(anti_affinity=(term,)))
    looks = counted(selectors, "holds")
    nodes = tuple(a_node(name, labels={**dict([LABEL]), HOST: name}) for name in ("n0", "n1"))
    view = View(nodes, {name: a_layout(name) for name in ("n0", "n1")}, (pod, *around), LABEL)
    made = decide(view)
    assert [placement.node for placement in made.plan.placements] == ["n1"]
    assert looks.calls < 2 * many


def test_values_of_an_affinity_are_checked_once_for_all_nodes(
    counted: Callable[[object, str], Counted],
) -> None:
    values = ("",) * 250_000
    constraints = Constraints(affinity=(NodeTerm((Expression(HOST, "NotIn", values),)),))
    checks = counted(identity, "are_label_values")
    nodes = [Node(f"n{number}", labels={HOST: f"n{number}"}) for number in range(2_000)]
    assert [node_refusal(constraints, node) for node in nodes] == [None] * len(nodes)
    assert checks.calls == 1


def test_values_that_the_scheduler_cannot_parse_rule_every_node_out() -> None:
    values = ("x",) * 100 + ("not a value",)
    constraints = Constraints(affinity=(NodeTerm((Expression(HOST, "NotIn", values),)),))
    node = Node("n", labels={HOST: "n"})
    assert not selects(constraints, node)


def test_terms_for_labels_that_a_node_lacks_are_not_tried_on_it(
    counted: Callable[[object, str], Counted],
) -> None:
    terms = tuple(
        NodeTerm((Expression(HOST, "Exists"), Expression(f"k{number}", "Exists")))
        for number in range(20_000)
    )
    tries = counted(identity, "_term_matches")
    constraints = Constraints(affinity=terms)
    node = Node("n", labels={HOST: "n", "k7": ""})
    assert selects(constraints, node)
    assert not selects(constraints, Node("m", labels={HOST: "m"}))
    assert tries.calls == 1


def test_terms_that_a_label_rules_out_are_not_tried_on_the_node(
    counted: Callable[[object, str], Counted],
) -> None:
    terms = tuple(
        NodeTerm((Expression("part", "NotIn", ("mps", f"x{number}")),)) for number in range(20_000)
    )
    tries = counted(identity, "_term_matches")
    constraints = Constraints(affinity=terms)
    assert not selects(constraints, Node("n", labels={"part": "mps"}))
    assert tries.calls == 0
    assert selects(constraints, Node("n", labels={"part": "x7"}))
    assert tries.calls == 1


def test_many_addresses_of_one_port_clash_with_many_others_at_once() -> None:
    wanted, taken = (
        [
            HostPort(5000, "TCP", f"10.{net}.{number >> 8}.{number & 255}")
            for number in range(60_000)
        ]
        for net in (1, 2)
    )
    assert not ports_clash(wanted, set(taken))
    assert list(clashing(wanted, {*taken, wanted[-1]})) == [wanted[-1]]


def test_port_that_is_written_twice_is_taken_once() -> None:
    port = {"containerPort": 1, "hostPort": 80}
    spec = {"containers": [{"name": "c", "ports": [port, port]}]}
    assert list(host_ports(spec)) == [HostPort(80)]


def test_volumes_that_name_one_claim_are_looked_at_once() -> None:
    terms = (NodeTerm((Expression(HOST, "In", tuple(f"n{number}" for number in range(100))),)),)
    pod = Pod("a", "p", volume_claims=("data",) * 40_000)
    found = resolve(pod, {"a/data": Claim("pv")}, {"pv": terms})
    assert found.volume_topology == (terms,)


def test_many_tolerations_are_not_tried_one_by_one_for_each_taint(
    counted: Callable[[object, str], Counted],
) -> None:
    values = range(50_000)
    tolerations = tuple(Toleration("team", "Equal", f"t{number}") for number in values)
    constraints = Constraints(tolerations=(*tolerations, *tolerations))
    assert constraints.tolerations == tolerations
    tries = counted(identity, "_matches")
    nodes = [Node(f"n{n}", taints=(Taint("team", f"t{n}", "NoSchedule"),)) for n in range(1_000)]
    assert all(tolerates_taints(constraints, node) for node in nodes)
    assert tries.calls == len(nodes)


def test_disruption_budget_with_many_values_is_asked_of_each_pod_at_once() -> None:
    listed = {"key": "app", "operator": "NotIn", "values": ["x"] * 250_000}
    others = {**listed, "values": [f"{number:x}" for number in range(100_000)]}
    budgets = [
        parse_budget(
            {
                "metadata": {"name": f"b{number}", "namespace": "default"},
                "spec": {"selector": {"matchExpressions": [listed, others]}},
                "status": {"disruptionsAllowed": 1},
            }
        )
        for number in range(2)
    ]
    names = [f"v{number}" for number in range(2_000)]
    pods = [Pod("default", name, uid=name, node="n", labels={"app": "y"}) for name in names]
    for selector in (budget.selector for budget in budgets):
        assert selector is not None
        assert all(all_hold(selector, pod.labels) for pod in pods)
        assert not all_hold(selector, {"app": "x"})
