"""The JSON form of an offline plan, whose keys other programs rely on (docs/design/programs.md)."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cli.plan.outcome import Complaint, NodeReport, Outcome
from cli.reading.inventory import Notice
from mpslice.nodelayout import Slices, slices_to_json
from mpslice.slices import size_label
from planner.model.nodes import Gpu
from planner.model.plan import Placement

_LISTS: Final = (list, dict)


def report(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome; `layouts` has the nodes that change, `seconds` what it took."""
    return {
        "rejected": _complaints(outcome.rejected),
        "placed": [_placed(placement) for placement in outcome.placed],
        "unplaced": _complaints(outcome.unplaced),
        "unplanned": _notices(outcome.unplanned),
        "warnings": _notices(outcome.warnings),
        "nodes": list(_nodes(outcome)),
        "candidates": _notices(outcome.candidates),
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


def json_text(value: dict[str, Any]) -> str:
    """JSON with a line for each key and for each entry of a list or map: json.dumps's own
    indentation takes longer than a plan."""
    lines = ",\n".join(f"  {json.dumps(key)}: {_entries(each)}" for key, each in value.items())
    return f"{{\n{lines}\n}}"


def yaml_text(value: dict[str, Any]) -> str:
    """The same as YAML."""
    import yaml  # late, since JSON is asked for more often

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, default_flow_style=False)
    return text.rstrip()


def _entries(value: Any) -> str:
    if not value or not isinstance(value, _LISTS):
        return json.dumps(value)
    if isinstance(value, list):
        inner = ",\n".join(f"    {json.dumps(each)}" for each in value)
        return f"[\n{inner}\n  ]"
    inner = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
    return f"{{\n{inner}\n  }}"


def _complaints(complaints: Iterable[Complaint]) -> list[dict[str, str]]:
    return [{"pod": c.pod, "reason": c.reason, "message": c.message} for c in complaints]


def _notices(notices: Iterable[Notice]) -> list[dict[str, str]]:
    return [{"object": n.object, "reason": n.reason, "message": n.message} for n in notices]


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


def _nodes(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Each node that is handed over, with its GPUs as the plan leaves them."""
    known = {
        (state.node.name, gpu.uuid): gpu for state in outcome.snapshot.nodes for gpu in state.gpus
    }
    for node in outcome.nodes:
        yield {
            "name": node.name,
            "ready": node.ready,
            "unschedulable": node.cordoned,
            "assumed": node.assumed,
            "reason": node.reason,
            "message": node.message,
            "gpus": list(_gpus(node, known, outcome)),
        }


def _gpus(
    node: NodeReport, known: dict[tuple[str, Any], Gpu], outcome: Outcome
) -> Iterator[dict[str, Any]]:
    layout = outcome.plan.layouts.get(node.name, {})
    for gpu in node.gpus:
        state = known.get((node.name, gpu.uuid))
        before: Slices = Counter(state.used) + Counter(state.free) if state else {}
        after = layout.get(gpu.uuid, before)
        yield {
            "uuid": gpu.uuid,
            "index": gpu.index,
            "product": gpu.product,
            "capacityGB": gpu.capacity_gb,
            "usedGB": sum(size * count for size, count in state.used.items()) if state else 0,
            "slices": slices_to_json(after),
            "reason": gpu.reason,
        }
