"""The one fact that admission knows of the cluster: how large the largest GPU is.

Followed in the background and held in memory, so that no request waits for the API server.
"""

from typing import NoReturn

from mpslice.kube.api import NODE_LAYOUTS, Json, Kube
from mpslice.kube.reflector import Change, Reflector


class LargestGpu:
    """The capacity in gb of the largest GPU of any labelled node; None while none is known."""

    def __init__(self) -> None:
        self.value: int | None = None

    def get(self) -> int | None:
        return self.value

    async def follow(self, kube: Kube) -> NoReturn:
        """Follows the NodeLayouts until cancelled; whatever fails is tried again and logged."""

        def changed(_change: Change[int]) -> None:
            self.value = max(reflector.objects.values(), default=None)

        reflector = Reflector(kube, NODE_LAYOUTS, largest_of, changed)
        await reflector.run()


def largest_of(layout: Json) -> int | None:
    """The capacity in gb of the largest GPU in a NodeLayout's status, healthy or not."""
    status = layout.get("status")
    gpus = status.get("gpus") if isinstance(status, dict) else None
    capacities = [
        gpu.get("capacityGB")
        for gpu in (gpus if isinstance(gpus, list) else ())
        if isinstance(gpu, dict)
    ]
    return max((c for c in capacities if isinstance(c, int) and c > 0), default=None)
