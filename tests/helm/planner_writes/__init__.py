"""What the planner's token may write and what it may not, one request a row, beside its own code's.

Each refused one stands with the words of the API server's refusal: a policy's message, or RBAC's.
"""

from tests.helm.accounts import Write
from tests.helm.planner_writes.elsewhere import REFUSED_ELSEWHERE
from tests.helm.planner_writes.objects import (
    EVENTS,
    LAYOUTS,
    LEASES,
    NODE,
    NODE_PATH,
    OTHER_POD,
    OTHERS_CONDITION,
    OTHERS_GATE,
    PLAIN,
    POD,
    SLICED,
    SPARE,
    event,
    layout,
    node,
    pod,
)
from tests.helm.planner_writes.of_pods import ALLOWED, REFUSED_OF_PODS

__all__ = [
    "ALLOWED",
    "EVENTS",
    "LAYOUTS",
    "LEASES",
    "NODE",
    "NODE_PATH",
    "OTHERS_CONDITION",
    "OTHERS_GATE",
    "OTHER_POD",
    "PLAIN",
    "POD",
    "REFUSED",
    "SLICED",
    "SPARE",
    "event",
    "layout",
    "node",
    "pod",
]

REFUSED: dict[str, tuple[Write, str]] = {**REFUSED_OF_PODS, **REFUSED_ELSEWHERE}
