"""The API server's audit log, and what it says of who asked for what. Pure but for the reading.

Each request is one line; the component is known by its account, the kind by verb and object.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})

_ACCOUNT: Final = "system:serviceaccount:mpslice-system:mpslice-"
_USERS: Final = {
    "system:kube-scheduler": "kube-scheduler",
    "system:kube-controller-manager": "controller-manager",
    "system:apiserver": "kube-apiserver",
    _ACCOUNT + "webhook": "webhook",
    _ACCOUNT + "planner": "planner",
    _ACCOUNT + "nodeagent": "agents",
}
OURS: Final = ("planner", "agents", "webhook")

_KINDS: Final = {
    ("planner", "nodelayouts", ""): "layout",
    ("agents", "nodes", "status"): "node status",
    ("agents", "nodelayouts", "status"): "layout status",
    ("planner", "pods", ""): "gate",
    ("planner", "pods", "status"): "pod condition, nomination",
    ("planner", "leases", ""): "lease",
    ("planner", "nodes", ""): "managed label",
}
UNCOUNTED: Final = frozenset({"Event", "lease"})
"""What is no part of a pod's life, or is counted apart."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `at` in seconds since 1970, `seconds` until it was answered."""

    at: float
    component: str
    verb: str
    resource: str
    subresource: str
    name: str
    code: int
    selector: str
    seconds: float
    again: bool
    """Whether a list is a page of one that began earlier."""

    @property
    def kind(self) -> str:
        """What a write is to a pod's life."""
        if self.resource == "events":
            return "Event"
        known = _KINDS.get((self.component, self.resource, self.subresource))
        return known or f"{self.verb} {self.resource}".strip()


def read(file: Path, since: float = 0.0, until: float = float("inf")) -> Iterator[Request]:
    """The requests that were received in between."""
    with file.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                request = parse(json.loads(line))
                if request is not None and since <= request.at <= until:
                    yield request


def parse(event: dict[str, Any]) -> Request | None:
    """A line as a request; None for the end of a watch, whose beginning is another line."""
    if event["stage"] == "ResponseComplete" and event["verb"] == "watch":
        return None
    user, about = event["user"]["username"], event.get("objectRef") or {}
    query = parse_qs(urlsplit(event["requestURI"]).query)
    at = _seconds(event["requestReceivedTimestamp"])
    return Request(
        at=at,
        component=component(user, event.get("userAgent", "")),
        verb=event["verb"],
        resource=about.get("resource", ""),
        subresource=about.get("subresource", ""),
        name=about.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        selector=",".join(query.get("fieldSelector", ())),
        seconds=_seconds(event["stageTimestamp"]) - at,
        again="continue" in query,
    )


def component(user: str, agent: str) -> str:
    """Whose request it is."""
    if user in _USERS:
        return _USERS[user]
    if user.startswith("system:serviceaccount:kube-system:"):
        return "controller-manager"  # each controller has an account of its own
    if agent.startswith("mpslice-bench-kubelets"):
        return "kubelets (played)"
    return "benchmark"


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the components asked for between two moments."""

    requests: Counter[tuple[str, str]]
    """By component and verb."""
    writes: Counter[tuple[str, str]]
    """Ours, by component and kind."""
    relists: Counter[str]
    """Lists by which one of ours began to follow a kind again, by component and kind."""
    rewatches: int
    """Watches that one of ours began: after the start, because one had ended or was cut."""
    looks: int
    """Consistent reads by which an agent makes sure, before a withdrawal, that no pod is coming."""
    failures: Counter[tuple[str, int]]
    """Requests of ours that were refused, by component and status."""

    def of(self, name: str) -> int:
        """All requests of a component."""
        return sum(count for (who, _), count in self.requests.items() if who == name)

    def life(self) -> Counter[str]:
        """Writes that belong to pods' lives, by kind."""
        counted: Counter[str] = Counter()
        for (_, kind), count in self.writes.items():
            if kind not in UNCOUNTED:
                counted[kind] += count
        return counted


def traffic(requests: Iterable[Request]) -> Traffic:
    """Sums requests up."""
    by_verb: Counter[tuple[str, str]] = Counter()
    writes: Counter[tuple[str, str]] = Counter()
    failures: Counter[tuple[str, int]] = Counter()
    lists: Counter[str] = Counter()
    watches: Counter[str] = Counter()
    looks = 0
    for each in requests:
        by_verb[each.component, each.verb] += 1
        if each.component not in OURS:
            continue
        if each.code >= 400:
            failures[each.component, each.code] += 1
        elif each.verb in WRITES:
            writes[each.component, each.kind] += 1
        if each.verb == "watch":
            watches[f"{each.component}: {each.resource}"] += 1
        if each.verb == "list" and not each.again:
            lists[f"{each.component}: {each.resource}"] += 1
            looks += each.selector == "spec.nodeName=,status.phase=Pending"
    # Each look lists the pods of the node beside those of no node, and the former once more where
    # one may have been bound in between; no watch follows those lists.
    by_agents = "agents: pods"
    lists[by_agents] = min(lists[by_agents] - 2 * looks, watches[by_agents])
    return Traffic(by_verb, writes, +lists, watches.total(), looks, failures)
