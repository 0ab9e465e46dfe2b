"""What `why` answers, as records and as JSON. Drawing decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cli.rights import Denied, granting
from cli.why.trial import NodeVerdict


class State(StrEnum):
    """The state of what was asked about; the first three need no action."""

    FINE = "Fine"
    ON_ITS_WAY = "OnItsWay"
    NOT_CONCERNED = "NotConcerned"
    WAITS = "Waits"
    REFUSED = "Refused"
    FAILED = "Failed"
    NOT_USED = "NotUsed"

    @property
    def is_well(self) -> bool:
        return self in (State.FINE, State.ON_ITS_WAY, State.NOT_CONCERNED)


@dataclass(frozen=True, slots=True)
class Told:
    """A message of another program.

    `source` is `condition …`, `event …` or the program's name; `at` is in RFC 3339.
    """

    source: str
    message: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that would help: a sentence, and the command or manifest line that does it."""

    kind: str
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """A pod's place among the pods that wait, in the planner's order; `ahead` as far as listed."""

    place: int
    of: int
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer about one pod, node or workload.

    `about` is `Pod ns/name`, `reason` a code, `summary` a sentence. `facts` are further sentences.
    `nodes` is node by node what stands in the way, `unjudged` how many nodes are not among them.
    `pods` are the answers about a workload's pods.
    """

    about: str
    state: State
    reason: str
    summary: str
    facts: tuple[str, ...] = ()
    told: tuple[Told, ...] = ()
    nodes: tuple[NodeVerdict, ...] = ()
    unjudged: int = 0
    queue: QueuePlace | None = None
    remedies: tuple[Remedy, ...] = ()
    pods: tuple["Answer", ...] = ()
    lacking: tuple[Denied, ...] = ()


def as_json(answer: Answer) -> dict[str, Any]:
    """The answer's JSON form (docs/why.md)."""
    return {
        "about": answer.about,
        "state": str(answer.state),
        "reason": answer.reason,
        "summary": answer.summary,
        "facts": list(answer.facts),
        "told": [{"source": t.source, "message": t.message, "at": t.at} for t in answer.told],
        "nodes": [
            {"node": v.node, "cause": str(v.cause) if v.cause else "", "detail": v.detail}
            for v in answer.nodes
        ],
        "queue": None
        if answer.queue is None
        else {
            "place": answer.queue.place,
            "of": answer.queue.of,
            "ahead": list(answer.queue.ahead),
        },
        "remedies": [
            {"kind": r.kind, "text": r.text, "command": r.command} for r in answer.remedies
        ],
        "pods": [as_json(pod) for pod in answer.pods],
        "missingRights": rights_json(answer.lacking),
    }


def rights_json(lacking: Sequence[Denied]) -> dict[str, Any]:
    """The rights that are missing, and what grants them."""
    return {
        "rights": [str(each.right) for each in lacking],
        "commands": granting(lacking),
    }
