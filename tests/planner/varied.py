"""Random but seeded nodes and slice pods that use every constraint that the planner mirrors."""

import random
from typing import Any

from mpslice.slices import SliceSize, resource_name
from planner.model.pods import GATE

Json = dict[str, Any]

SIZES = (5, 10, 10, 20, 40)
ZONES = ("a", "b", "c", "d")
APPS = tuple(f"app-{number}" for number in range(12))
DEDICATED = {"key": "dedicated", "value": "team", "effect": "NoSchedule"}
AVOIDED = {"key": "avoided", "value": "", "effect": "PreferNoSchedule"}
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
GENERATION = "example.com/generation"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def node_labels(index: int) -> dict[str, str]:
    """Zones and generations, so that every few nodes are alike; one node has no zone."""
    zone = {} if index == 7 else {ZONE: ZONES[index % len(ZONES)]}
    return {**zone, GENERATION: str(index % 3 + 1)}


def node_taints(index: int) -> list[Json]:
    """Every fifth node is for those who tolerate it; some others would rather be left alone."""
    taints = [DEDICATED] if index % 5 == 4 else []
    return [*taints, AVOIDED] if index % 3 == 0 else taints


def is_cordoned(index: int) -> bool:
    """Every twelfth node is."""
    return index % 12 == 10


def varied_pods(
    count: int, seed: int, *, namespaces: tuple[str, ...] = ("default",), gated: bool = True
) -> list[Json]:
    """Pods of one container each, in the order in which they are to be created."""
    chance = random.Random(seed)  # a test's dice
    return [
        _pod(f"p{number:03}", chance, chance.choice(namespaces), gated) for number in range(count)
    ]


def _pod(name: str, chance: random.Random, namespace: str, gated: bool) -> Json:
    labels = {"app": chance.choice(APPS), "revision": chance.choice("12")}
    spec: Json = {
        "containers": [_container(chance)],
        "automountServiceAccountToken": False,
        "affinity": {},
    }
    if gated:
        spec["schedulingGates"] = [{"name": GATE}]
    if chance.random() < 0.5:
        spec["tolerations"] = [chance.choice(_TOLERATIONS)]
    _run_more(spec, chance)
    _choose_nodes(spec, chance)
    _relate(spec, labels, chance)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    }


_TOLERATIONS: list[Json] = [
    {"key": "dedicated", "operator": "Exists"},
    {"key": "dedicated", "operator": "Equal", "value": "team", "effect": "NoSchedule"},
    {"operator": "Exists"},
    {"key": "dedicated", "value": "others"},
    {"key": "dedicated", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"},
    {"operator": "Exists", "effect": "NoExecute"},
]


def _container(chance: random.Random) -> Json:
    size = resource_name(SliceSize(chance.choice(SIZES)))
    container: Json = {
        "name": "main",
        "image": "none",
        "resources": {
            "limits": {size: "1"},
            "requests": {"cpu": f"{chance.choice((100, 250, 500, 1000))}m", "memory": "512Mi"},
        },
    }
    if chance.random() < 0.1:
        port: Json = {"containerPort": 80, "hostPort": chance.choice((8080, 8081))}
        if chance.random() < 0.5:
            port["hostIP"] = chance.choice(("127.0.0.1", "127.0.0.2"))
        if chance.random() < 0.3:
            port["protocol"] = "UDP"
        container["ports"] = [port]
    return container


def _run_more(spec: Json, chance: random.Random) -> None:
    """Init containers, sidecars and requests of the pod itself, by which its requests are others
    than its container's.
    """
    kind = chance.random()
    init = {"name": "init", "image": "none", "resources": {"requests": {"cpu": "1500m"}}}
    sidecar = {
        "name": "sidecar",
        "image": "none",
        "restartPolicy": "Always",
        "resources": {"requests": {"cpu": "300m", "memory": "256Mi"}},
        "ports": [{"containerPort": 81, "hostPort": 8080}] if chance.random() < 0.2 else [],
    }
    if kind < 0.1:
        spec["initContainers"] = [init]
    elif kind < 0.15:
        spec["initContainers"] = [sidecar]
    elif kind < 0.2:
        spec["initContainers"] = chance.sample([init, sidecar], 2)
    elif kind < 0.3:
        spec["resources"] = {"requests": {"cpu": chance.choice(("1200m", "2"))}}
    elif kind < 0.33:
        spec["hostNetwork"] = True
        spec["containers"][0]["ports"] = [{"containerPort": chance.choice((8080, 8081))}]


def _choose_nodes(spec: Json, chance: random.Random) -> None:
    kind = chance.random()
    if kind < 0.15:
        spec["nodeSelector"] = {ZONE: chance.choice(ZONES)}
    elif kind < 0.4:
        expression = chance.choice(
            [
                {"key": ZONE, "operator": "NotIn", "values": [chance.choice(ZONES)]},
                {"key": GENERATION, "operator": "Gt", "values": ["1"]},
                {"key": GENERATION, "operator": "Lt", "values": ["3"]},
                {"key": "example.com/absent", "operator": "DoesNotExist"},
                {"key": "example.com/absent", "operator": "NotIn", "values": ["x"]},
                {"key": "example.com/absent", "operator": "Lt", "values": ["9"]},
                {"key": ZONE, "operator": "Gt", "values": ["0"]},
                {"key": ZONE, "operator": "Exists"},
                {"key": ZONE, "operator": "In", "values": chance.sample(ZONES, 2)},
            ]
        )
        term: Json = {"matchExpressions": [expression]}
        if chance.random() < 0.2:
            operator, name = chance.choice((("NotIn", "n03"), ("In", "n05")))
            field = {"key": "metadata.name", "operator": operator, "values": [name]}
            term["matchFields"] = [field]
        terms = {"nodeSelectorTerms": [term]}
        spec["affinity"]["nodeAffinity"] = {_REQUIRED: terms}


def _relate(spec: Json, labels: dict[str, str], chance: random.Random) -> None:
    app = labels["app"]
    mine: Json = {"matchLabels": {"app": app}}
    kind = chance.random()
    if kind < 0.1:
        labels["alone"] = app
        selector: Json = {"matchLabels": {"alone": app}}
        if chance.random() < 0.3:
            selector = {"matchExpressions": [{"key": "alone", "operator": "In", "values": [app]}]}
        term: Json = {"topologyKey": HOST, "labelSelector": selector}
        if chance.random() < 0.3:
            term["namespaceSelector"] = {"matchLabels": {"team": "x"}}
        if chance.random() < 0.2:
            term["mismatchLabelKeys"] = ["revision"]
        spec["affinity"]["podAntiAffinity"] = {_REQUIRED: [term]}
    elif kind < 0.2:
        term = {"topologyKey": chance.choice((ZONE, ZONE, HOST)), "labelSelector": mine}
        if chance.random() < 0.5:
            term["namespaceSelector"] = {}
        if chance.random() < 0.3:
            term["matchLabelKeys"] = ["revision"]
        spec["affinity"]["podAffinity"] = {_REQUIRED: [term]}
    elif kind < 0.45:
        spec["topologySpreadConstraints"] = [
            _spread(mine, key, chance) for key in chance.choice(((HOST,), (ZONE,), (ZONE, HOST)))
        ]


def _spread(selector: Json, key: str, chance: random.Random) -> Json:
    constraint: Json = {
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "maxSkew": chance.choice((1, 2, 3)),
        "labelSelector": selector,
    }
    if chance.random() < 0.3:
        constraint["minDomains"] = chance.choice((2, 5))
    if chance.random() < 0.3:
        constraint["matchLabelKeys"] = ["revision"]
    if chance.random() < 0.5:
        constraint["nodeTaintsPolicy"] = chance.choice(("Honor", "Ignore"))
    if chance.random() < 0.3:
        constraint["nodeAffinityPolicy"] = chance.choice(("Honor", "Ignore"))
    return constraint
