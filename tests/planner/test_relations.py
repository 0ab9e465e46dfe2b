"""Affinity, anti-affinity and spread in a planning pass, rule by rule."""

from collections.abc import Iterable, Mapping
from typing import Any

from planner.feasibility.relations import RelationBook
from planner.model.constraints import (
    NAMESPACE_NAME,
    Constraints,
    Expression,
    PodTerm,
    Relations,
    Selector,
    Spread,
    Taint,
)
from planner.model.nodes import Node
from planner.model.plan import Cause
from planner.model.pods import Pod
from planner.model.snapshot import Neighbours, Snapshot

NODES = tuple(
    Node(name, labels={"host": name, "zone": zone})
    for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b"))
)


def app(*values: str) -> Selector:
    return (Expression("app", "In", values),)


def near(selector: Selector, key: str = "zone", **fields: Any) -> PodTerm:
    return PodTerm(key, selector, **{"namespaces": frozenset({"default"}), **fields})


def a_pod(name: str, *, node: str = "", namespace: str = "default", **fields: Any) -> Pod:
    labels = fields.pop("labels", {"app": name.rstrip("0123456789")})
    return Pod(namespace, name, uid=name, node=node, labels=labels, **fields)


def book(
    pending: Iterable[Pod],
    existing: Iterable[Pod] = (),
    nodes: tuple[Node, ...] = NODES,
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
) -> RelationBook:
    pods: dict[str, list[Pod]] = {}
    for pod in existing:
        pods.setdefault(pod.node, []).append(pod)
    repelling = tuple(pod for pod in existing if pod.relations.anti_affinity)
    around = Neighbours(nodes, pods, repelling, namespaces or {})
    return RelationBook(Snapshot(neighbours=around), tuple(pending))


def refused(subject: RelationBook, pod: Pod) -> dict[str, Cause]:
    answers = {node.name: subject.refuses(pod, node.name) for node in NODES}
    return {name: cause for name, cause in answers.items() if cause is not None}


def test_book_is_not_active_where_nobody_relates_to_anybody() -> None:
    assert not book([a_pod("web1")], [a_pod("db1", node="n1")]).active


def test_affinity_admits_only_domains_with_a_pod_that_it_means() -> None:
    pod = a_pod("web1", relations=Relations(affinity=(near(app("db")),)))
    subject = book([pod], [a_pod("db1", node="n1")])
    assert refused(subject, pod) == {"n3": Cause.POD_AFFINITY}


def test_affinity_of_several_terms_needs_a_pod_that_satisfies_all_of_them() -> None:
    terms = (near(app("db")), near((Expression("tier", "In", ("gold",)),), "host"))
    pod = a_pod("web1", relations=Relations(affinity=terms))
    half = [
        a_pod("db1", node="n1"),
        a_pod("x1", node="n1", labels={"tier": "gold"}),
    ]
    assert set(refused(book([pod], half), pod)) == {"n1", "n2", "n3"}
    both = a_pod("db2", node="n3", labels={"app": "db", "tier": "gold"})
    assert set(refused(book([pod], [*half, both]), pod)) == {"n1", "n2"}


def test_first_pod_of_a_group_that_stays_together_may_start_anywhere() -> None:
    relations = Relations(affinity=(near(app("web")),))
    pods = [a_pod("web1", relations=relations), a_pod("web2", relations=relations)]
    subject = book(pods)
    assert refused(subject, pods[0]) == {}
    subject.add(pods[0], "n3")
    assert set(refused(subject, pods[1])) == {"n1", "n2"}
    subject.remove(pods[0], "n3")
    assert refused(subject, pods[1]) == {}


def test_pod_that_its_own_affinity_does_not_mean_is_no_first_one() -> None:
    pod = a_pod("web1", relations=Relations(affinity=(near(app("db")),)))
    assert len(refused(book([pod]), pod)) == 3


def test_first_pod_still_needs_a_node_with_the_topology_key() -> None:
    relations = Relations(affinity=(near(app("web"), "rack"),))
    pod = a_pod("web1", relations=relations)
    assert len(refused(book([pod]), pod)) == 3


def test_anti_affinity_keeps_away_from_what_it_means() -> None:
    pod = a_pod("web1", relations=Relations(anti_affinity=(near(app("db"), "host"),)))
    subject = book([pod], [a_pod("db1", node="n1")])
    assert refused(subject, pod) == {"n1": Cause.POD_AFFINITY}


def test_anti_affinity_of_a_pod_that_is_there_keeps_others_away_from_it() -> None:
    loner = a_pod("db1", node="n1", relations=Relations(anti_affinity=(near(app("web")),)))
    pod, other = a_pod("web1"), a_pod("job1")
    subject = book([pod, other], [loner])
    assert set(refused(subject, pod)) == {"n1", "n2"}
    assert refused(subject, other) == {}
    assert subject.alike(other) is None


def test_anti_affinity_of_a_pod_placed_in_the_pass_counts_until_it_is_taken_back() -> None:
    loner = a_pod("db1", relations=Relations(anti_affinity=(near(app("web"), "host"),)))
    pod = a_pod("web1")
    subject = book([loner, pod])
    subject.add(loner, "n2")
    assert set(refused(subject, pod)) == {"n2"}
    subject.remove(loner, "n2")
    assert refused(subject, pod) == {}


def test_terminating_pod_still_counts_for_affinity_but_not_for_spread() -> None:
    leaving = a_pod("web0", node="n1", terminating=True)
    apart = a_pod("web1", relations=Relations(anti_affinity=(near(app("web"), "host"),)))
    spread = a_pod("web2", relations=Relations(spread=(Spread("host", app("web")),)))
    subject = book([apart, spread], [leaving])
    assert set(refused(subject, apart)) == {"n1"}
    assert refused(subject, spread) == {}


def test_term_means_pods_of_its_namespaces_only() -> None:
    pod = a_pod("web1", relations=Relations(anti_affinity=(near(app("db")),)))
    assert refused(book([pod], [a_pod("db1", node="n1", namespace="other")]), pod) == {}


def test_namespace_selector_picks_namespaces_by_their_labels() -> None:
    term = near(
        app("db"), namespaces=frozenset(), namespace_selector=(Expression("team", "In", ("a",)),)
    )
    pod = a_pod("web1", relations=Relations(anti_affinity=(term,)))
    existing = [a_pod("db1", node="n1", namespace="a"), a_pod("db2", node="n3", namespace="b")]
    labels = {"a": {"team": "a"}, "b": {"team": "b"}}
    assert set(refused(book([pod], existing, namespaces=labels), pod)) == {"n1", "n2"}


def test_empty_namespace_selector_picks_every_namespace_and_unknown_ones_have_their_name() -> None:
    every = near(app("db"), "host", namespaces=frozenset(), namespace_selector=())
    named = near(
        app("db"),
        "host",
        namespaces=frozenset(),
        namespace_selector=(Expression(NAMESPACE_NAME, "In", ("b",)),),
    )
    existing = [a_pod("db1", node="n1", namespace="a"), a_pod("db2", node="n3", namespace="b")]
    for term, expected in ((every, {"n1", "n3"}), (named, {"n3"})):
        pod = a_pod("web1", relations=Relations(anti_affinity=(term,)))
        assert set(refused(book([pod], existing), pod)) == expected


def test_missing_selector_means_nobody_and_an_empty_one_everybody() -> None:
    existing = [a_pod("db1", node="n1")]
    for selector, expected in ((None, set[str]()), ((), {"n1", "n2"})):
        pod = a_pod("web1", relations=Relations(anti_affinity=(near(selector),)))
        assert set(refused(book([pod], existing), pod)) == expected


def test_value_that_is_listed_twice_counts_a_pod_once() -> None:
    spread = Spread("host", app("web", "web"), max_skew=2)
    pod = a_pod("web1", relations=Relations(spread=(spread,)))
    assert refused(book([pod], [a_pod("web0", node="n1")]), pod) == {}


def test_spread_admits_domains_within_the_skew_of_the_emptiest() -> None:
    relations = Relations(spread=(Spread("zone", app("web")),))
    pod = a_pod("web3", relations=relations)
    subject = book([pod], [a_pod("web1", node="n1")])
    assert refused(subject, pod) == dict.fromkeys(("n1", "n2"), Cause.TOPOLOGY_SPREAD)
    subject.add(pod, "n3")
    assert refused(subject, pod) == {}


def test_pod_that_its_spread_does_not_mean_adds_nothing_to_the_skew() -> None:
    pod = a_pod("job1", relations=Relations(spread=(Spread("zone", app("web")),)))
    assert refused(book([pod], [a_pod("web1", node="n1")]), pod) == {}


def test_node_without_the_topology_key_is_refused_and_is_no_domain() -> None:
    bare = Node("n1", labels={"host": "n1"})
    pod = a_pod("web1", relations=Relations(spread=(Spread("zone", app("web")),)))
    subject = book([pod], nodes=(bare, *NODES[1:]))
    assert subject.refuses(pod, "n1") is Cause.TOPOLOGY_SPREAD
    assert subject.refuses(pod, "n2") is None


def test_fewer_domains_than_demanded_make_the_emptiest_count_as_empty() -> None:
    existing = [a_pod("web1", node="n1"), a_pod("web2", node="n3")]
    for least, expected in ((2, 0), (3, 3)):
        spread = Spread("zone", app("web"), min_domains=least)
        pod = a_pod("web3", relations=Relations(spread=(spread,)))
        assert len(refused(book([pod], existing), pod)) == expected


def test_empty_selector_of_a_spread_counts_no_pod_that_is_there() -> None:
    pod = a_pod("web2", relations=Relations(spread=(Spread("zone", ()),)))
    existing = [a_pod("web0", node="n1"), a_pod("web1", node="n1")]
    assert refused(book([pod], existing), pod) == {}


def test_domains_are_of_nodes_that_the_pod_may_use_unless_it_says_otherwise() -> None:
    only_a = Constraints(node_selector=(("zone", "a"),))
    existing = [a_pod("web1", node="n1"), a_pod("web2", node="n2")]
    for honor, expected in ((True, set[str]()), (False, {"n1", "n2"})):
        spread = Spread("zone", app("web"), honor_affinity=honor)
        pod = a_pod("web3", constraints=only_a, relations=Relations(spread=(spread,)))
        assert set(refused(book([pod], existing), pod)) & {"n1", "n2"} == expected


def test_tainted_nodes_are_domains_unless_taints_are_honoured() -> None:
    tainted = Node("n3", labels=NODES[2].labels, taints=(Taint("x", "", "NoSchedule"),))
    existing = [a_pod("web1", node="n1")]
    for honor, expected in ((False, 2), (True, 0)):
        spread = Spread("zone", app("web"), honor_taints=honor)
        pod = a_pod("web2", relations=Relations(spread=(spread,)))
        subject = book([pod], existing, nodes=(*NODES[:2], tainted))
        refusals = [subject.refuses(pod, name) for name in ("n1", "n2")]
        assert len([r for r in refusals if r]) == expected


def test_unlabelled_and_cordoned_nodes_are_domains_too() -> None:
    cordoned = Node("n3", labels=NODES[2].labels, unschedulable=True, ready=False)
    pod = a_pod("web2", relations=Relations(spread=(Spread("zone", app("web")),)))
    subject = book([pod], [a_pod("web1", node="n1")], nodes=(*NODES[:2], cordoned))
    assert subject.refuses(pod, "n2") is Cause.TOPOLOGY_SPREAD


def test_pods_on_unknown_nodes_count_nowhere() -> None:
    pod = a_pod("web1", relations=Relations(anti_affinity=(near(app("db")),)))
    assert refused(book([pod], [a_pod("db1", node="gone")]), pod) == {}


def test_replicas_share_their_fate_and_others_do_not() -> None:
    relations = Relations(spread=(Spread("zone", app("web")),))
    pods = [a_pod(f"web{i}", relations=relations) for i in range(2)]
    other = a_pod("web3", relations=relations, namespace="other")
    subject = book([*pods, other])
    assert subject.alike(pods[0]) == subject.alike(pods[1]) != subject.alike(other)
    assert subject.may_come_to_fit(pods[0])


def test_pod_may_not_push_one_that_is_placed_beyond_its_spread() -> None:
    spread = a_pod("web1", relations=Relations(spread=(Spread("host", app("web")),)))
    other = a_pod("web2")
    subject = book([spread, other])
    assert refused(subject, other) == {}
    subject.add(spread, "n1")
    assert refused(subject, other) == {"n1": Cause.TOPOLOGY_SPREAD}
    subject.remove(spread, "n1")
    assert refused(subject, other) == {}


def test_pod_may_not_found_elsewhere_the_group_that_one_was_placed_to_start() -> None:
    first = a_pod("web1", relations=Relations(affinity=(near(app("web")),)))
    other, third = a_pod("web2"), a_pod("web3")
    subject = book([first, other, third])
    assert refused(subject, other) == {}
    subject.add(first, "n1")
    assert refused(subject, other) == {"n3": Cause.POD_AFFINITY}
    subject.add(other, "n2")
    assert refused(subject, third) == {}


def test_pod_that_is_bound_with_its_spread_is_pushed_by_others_as_the_scheduler_has_it() -> None:
    spread = Relations(spread=(Spread("host", app("web")),))
    pending = [a_pod("web1"), a_pod("web2", relations=spread)]
    subject = book(pending, [a_pod("web0", node="n1", relations=spread)])
    assert refused(subject, pending[0]) == {}
