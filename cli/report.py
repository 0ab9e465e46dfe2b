"""The JSON form of an offline plan, as DESIGN.md section 9 fixes it for other programs."""

from collections.abc import Iterable
from typing import Any

from cli.offline import Complaint, Outcome
from mpslice.nodelayout import slices_to_json
from mpslice.slices import size_label
from planner.model import Placement


def report(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome; `layouts` has the nodes that change, `seconds` what it took."""
    return {
        "rejected": _complaints(outcome.rejected),
        "placed": [_placed(placement) for placement in outcome.placed],
        "unplaced": _complaints(outcome.unplaced),
        "layouts": {
            node: {gpu: slices_to_json(slices) for gpu, slices in layout.items()}
            for node, layout in outcome.plan.layouts.items()
        },
        "withdrawn": outcome.plan.withdrawn,
        "seconds": {
            "read": round(outcome.read_seconds, 4),
            "plan": round(outcome.plan_seconds, 4),
        },
    }


def _complaints(complaints: Iterable[Complaint]) -> list[dict[str, str]]:
    return [{"pod": c.pod, "reason": c.reason, "message": c.message} for c in complaints]


def _placed(placement: Placement) -> dict[str, Any]:
    return {
        "pod": placement.pod.key,
        "node": placement.node,
        "slices": [
            {
                "container": claim.container,
                "size": size_label(claim.size),
                "gpu": placement.gpus[claim.seat],
            }
            for claim in placement.pod.claims
        ],
    }
