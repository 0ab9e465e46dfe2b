"""Kubernetes JSON to records: requests, ports and relations as the scheduler reads them."""

from typing import Any

import pytest

from planner.model.constraints import (
    NO_RELATIONS,
    Expression,
    HostPort,
    PodTerm,
    Relations,
    Resources,
    Spread,
)
from planner.state.parse import parse_namespace, parse_node, parse_pod

GB = "mpslice.io/gb"


def container(name: str, cpu: str = "", **fields: Any) -> dict[str, Any]:
    return {"name": name, "resources": {"requests": {"cpu": cpu}} if cpu else {}, **fields}


def a_pod(
    *containers: dict[str, Any], status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "team", "labels": {"app": "web", "rev": "7"}},
        "spec": {"containers": list(containers) or [container("main")], **spec},
        "status": status or {},
    }


def cpu_of(obj: dict[str, Any]) -> int:
    return parse_pod(obj).requests.cpu_milli


def reported(name: str, actuated: str, allocated: str = "") -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "resources": {"requests": {"cpu": actuated}}}
    return {**entry, "allocatedResources": {"cpu": allocated}} if allocated else entry


INFEASIBLE = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
DEFERRED = {**INFEASIBLE, "reason": "Deferred"}
SIDECAR = {"restartPolicy": "Always"}
LIMIT_ONLY = {"name": "c", "resources": {"limits": {"cpu": "2"}, "requests": {"memory": "1"}}}

REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("containers run together", a_pod(container("a", "1"), container("b", "500m")), 1500),
    ("a limit is a request too", a_pod(LIMIT_ONLY), 2000),
    (
        "the largest init container counts alone",
        a_pod(container("a", "1"), initContainers=[container("i", "3"), container("j", "2")]),
        3000,
    ),
    (
        "a sidecar counts beside the containers and the init containers after it",
        a_pod(
            container("a", "1"),
            initContainers=[
                container("i", "4"),
                container("s", "1", **SIDECAR),
                container("j", "4"),
            ],
        ),
        5000,
    ),
    ("overhead is added", a_pod(container("a", "1"), overhead={"cpu": "250m"}), 1250),
    (
        "pod-level requests stand for the sum",
        a_pod(container("a", "1"), resources={"requests": {"cpu": "3"}}, overhead={"cpu": "1"}),
        4000,
    ),
    (
        "a pod-level limit is a request where no container has one",
        a_pod(container("a"), resources={"limits": {"cpu": "3"}}),
        3000,
    ),
    (
        "a pod-level limit is none where a container requests some",
        a_pod(container("a", "1"), resources={"limits": {"cpu": "3"}}),
        1000,
    ),
    (
        "a container that is to shrink still holds what it has",
        a_pod(container("a", "1"), status={"containerStatuses": [reported("a", "2")]}),
        2000,
    ),
    (
        "a container that is to grow needs what it asks for",
        a_pod(
            container("a", "4"),
            status={"containerStatuses": [reported("a", "2", "3")], "conditions": [DEFERRED]},
        ),
        4000,
    ),
    (
        "what is allocated counts before it is in force",
        a_pod(container("a", "1"), status={"containerStatuses": [reported("a", "2", "3")]}),
        3000,
    ),
    (
        "a resize that can never be leaves the spec out",
        a_pod(
            container("a", "9"),
            status={"containerStatuses": [reported("a", "2", "3")], "conditions": [INFEASIBLE]},
        ),
        3000,
    ),
    (
        "without a report the spec counts even then",
        a_pod(
            container("a", "9"),
            status={"containerStatuses": [{"name": "a"}], "conditions": [INFEASIBLE]},
        ),
        9000,
    ),
    (
        "a sidecar is resized too, an init container that ends is not",
        a_pod(
            container("a", "1"),
            initContainers=[container("s", "1", **SIDECAR), container("i", "1")],
            status={"initContainerStatuses": [reported("s", "3"), reported("i", "9")]},
        ),
        4000,
    ),
    (
        "a pod-level request that is to shrink still holds what it has",
        a_pod(
            container("a", "1"),
            resources={"requests": {"cpu": "2"}},
            status={"resources": {"requests": {"cpu": "3"}}, "allocatedResources": {"cpu": "5"}},
        ),
        5000,
    ),
]


@pytest.mark.parametrize(("obj", "cpu"), [r[1:] for r in REQUESTS], ids=[r[0] for r in REQUESTS])
def test_requests_are_those_that_the_scheduler_counts(obj: dict[str, Any], cpu: int) -> None:
    assert cpu_of(obj) == cpu


def test_pod_level_requests_leave_extended_resources_alone() -> None:
    wants = {"requests": {"cpu": "1", "example.com/fpga": "2"}}
    pod = parse_pod(a_pod({"name": "a", "resources": wants}, resources={"requests": {"cpu": "4"}}))
    assert pod.requests == Resources(4000, extended=(("example.com/fpga", 2),))


def test_ports_of_init_containers_that_end_do_not_count() -> None:
    def with_port(name: str, port: int, **fields: Any) -> dict[str, Any]:
        return container(name, ports=[{"containerPort": port, "hostPort": port}], **fields)

    inits = [with_port("i", 1), with_port("s", 2, **SIDECAR)]
    pod = parse_pod(a_pod(with_port("a", 3), initContainers=inits))
    assert pod.ports == (HostPort(2), HostPort(3))


def test_on_the_hosts_network_every_port_is_the_hosts() -> None:
    ports = [{"containerPort": 80, "protocol": "UDP"}]
    pod = parse_pod(a_pod(container("a", ports=ports), hostNetwork=True))
    assert pod.ports == (HostPort(80, "UDP"),)


def term(**fields: Any) -> dict[str, Any]:
    return {"topologyKey": "zone", **fields}


def anti(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}
    return a_pod(affinity={"podAntiAffinity": required})


def anti_term(**fields: Any) -> PodTerm:
    (parsed,) = parse_pod(anti(term(**fields))).relations.anti_affinity
    return parsed


def test_pod_that_demands_nothing_of_others_has_no_relations() -> None:
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    anyway = {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}
    pod = a_pod(affinity={"podAffinity": preferred}, topologySpreadConstraints=[anyway])
    assert parse_pod(pod).relations is NO_RELATIONS
    assert parse_pod(a_pod()).relations is NO_RELATIONS


def test_term_means_the_pods_own_namespace_unless_it_names_others() -> None:
    selector = {"matchLabels": {"team": "a"}}
    assert anti_term().namespaces == {"team"}
    assert anti_term(namespaces=["x"]).namespaces == {"x"}
    chosen = anti_term(namespaceSelector=selector)
    assert chosen.namespaces == frozenset()
    assert chosen.namespace_selector == (Expression("team", "In", ("a",)),)
    assert anti_term(namespaceSelector={}).namespace_selector == ()


def test_missing_and_empty_selector_are_told_apart() -> None:
    assert anti_term().selector is None
    assert anti_term(labelSelector={}).selector == ()


def test_selector_has_one_form_however_it_is_written() -> None:
    labels = {"matchLabels": {"b": "2", "a": "1"}}
    expressions = {
        "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1"]},
            {"key": "b", "operator": "In", "values": ["2"]},
        ]
    }
    assert anti_term(labelSelector=labels) == anti_term(labelSelector=expressions)


def test_label_keys_stand_for_the_pods_own_values() -> None:
    keys = {"matchLabelKeys": ["rev", "absent"], "mismatchLabelKeys": ["app"]}
    assert anti_term(labelSelector={}, **keys).selector == (
        Expression("app", "NotIn", ("web",)),
        Expression("rev", "In", ("7",)),
    )
    assert anti_term(**keys).selector is None


def test_label_keys_that_the_api_server_has_merged_are_not_merged_again() -> None:
    merged = {"matchExpressions": [{"key": "rev", "operator": "In", "values": ["6"]}]}
    parsed = anti_term(labelSelector=merged, matchLabelKeys=["rev"])
    assert parsed.selector == (Expression("rev", "In", ("6",)),)


def test_spread_has_kubernetes_defaults() -> None:
    constraint = {
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "maxSkew": 2,
        "labelSelector": {},
    }
    full = {
        **constraint,
        "minDomains": 3,
        "nodeAffinityPolicy": "Ignore",
        "nodeTaintsPolicy": "Honor",
        "matchLabelKeys": ["rev"],
    }
    relations = parse_pod(a_pod(topologySpreadConstraints=[constraint, full])).relations
    assert relations == Relations(
        spread=(
            Spread("zone", (), 2),
            Spread("zone", (Expression("rev", "In", ("7",)),), 2, 3, False, True),
        )
    )


def test_namespace_always_has_its_name_as_a_label() -> None:
    assert parse_namespace({"metadata": {"name": "a", "labels": {"x": "y"}}}) == {
        "x": "y",
        "kubernetes.io/metadata.name": "a",
    }


def asking_gb(amount: object, **spec: Any) -> dict[str, Any]:
    requests = {"nvidia.com/gpu-10gb": "1", "mpslice.io/gb": amount}
    return a_pod({"name": "main", "resources": {"requests": requests}}, **spec)


def test_gb_follows_from_slices_and_is_no_resource_of_its_own() -> None:
    pod = parse_pod(asking_gb("10"))
    assert (pod.seats, pod.requests.extended, pod.constraints.gb) == ((10,), (), True)
    init = {"name": "i", "resources": {"requests": {"mpslice.io/gb": "5"}}}
    assert parse_pod(a_pod(initContainers=[init])).constraints.gb
    assert not parse_pod(asking_gb("0")).constraints.gb
    assert not parse_pod(a_pod()).constraints.gb


@pytest.mark.parametrize(
    ("offered", "offers"), [({}, False), ({GB: "0"}, False), ({GB: "85"}, True)]
)
def test_node_offers_gb_once_its_status_says_so(offered: dict[str, str], offers: bool) -> None:
    node = parse_node(
        {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", **offered}}}
    )
    assert (node.offers_gb, node.allocatable.extended) == (offers, ())


def test_pod_preempts_unless_its_policy_is_never() -> None:
    assert parse_pod(a_pod()).preempts
    assert parse_pod(a_pod(preemptionPolicy="PreemptLowerPriority")).preempts
    assert not parse_pod(a_pod(preemptionPolicy="Never")).preempts


def test_grace_is_that_of_the_deletion_else_that_of_the_spec() -> None:
    assert parse_pod(a_pod()).grace == 30
    pod = a_pod(terminationGracePeriodSeconds=600)
    assert parse_pod(pod).grace == 600
    pod["metadata"]["deletionGracePeriodSeconds"] = 5
    assert parse_pod(pod).grace == 5


def test_grace_without_end_is_three_years() -> None:
    """The API server has no upper limit for it, and sums with it have to be times."""
    assert parse_pod(a_pod(terminationGracePeriodSeconds=2**63 - 1)).grace == 10**8


def test_pod_that_asks_for_a_million_slices_is_read_as_asking_for_a_thousand() -> None:
    """A mirror pod passes admission; more than a thousand are on no node either."""
    sizes = {f"nvidia.com/gpu-{gb}gb": "1024" for gb in range(1, 1000)}
    many = [container(f"c{n}") | {"resources": {"limits": sizes}} for n in range(3)]
    assert len(parse_pod(a_pod(*many)).seats) == 1024
