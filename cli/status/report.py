"""The JSON form of a picture, whose keys other programs may rely on (docs/why.md)."""

from dataclasses import asdict
from typing import Any

from cli.status.picture import Gpu, Picture, Total
from cli.why.answer import rights_json
from mpslice.slices import size_label


def report(picture: Picture) -> dict[str, Any]:
    """The whole picture; `nodes` is null where they may not be seen."""
    return {
        "namespace": picture.namespace,
        "judged": picture.judged,
        "total": _total(picture.total),
        "pools": [_total(pool) for pool in picture.pools],
        "namespaces": [
            {
                "namespace": share.namespace,
                "pods": share.pods,
                "heldGB": share.held,
                "waiting": share.waiting,
                "waitingGB": share.waiting_gb,
            }
            for share in picture.shares
        ],
        "nodes": None
        if picture.nodes is None
        else [
            {
                "name": node.name,
                "pool": node.pool,
                "state": node.state,
                "gpus": [_gpu(gpu) for gpu in node.gpus],
            }
            for node in picture.nodes
        ],
        "holdings": [asdict(holding) for holding in picture.holdings],
        "waiting": [asdict(waiting) for waiting in picture.waiting],
        "missingRights": rights_json(picture.lacking),
    }


def _total(total: Total) -> dict[str, Any]:
    return {
        "name": total.name,
        "nodes": total.nodes,
        "gpus": total.gpus,
        "capacityGB": total.capacity,
        "usedGB": total.used,
        "freeGB": total.free,
        "uncarvedGB": total.uncarved,
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "product": gpu.product,
        "capacityGB": gpu.capacity,
        "reason": gpu.reason,
        "slices": [
            {
                "size": size_label(each.size),
                "state": "Used" if each.used else "Free",
                "pod": each.pod,
                "container": each.container,
            }
            for each in gpu.slices
        ],
    }
