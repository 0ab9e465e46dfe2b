"""When a node may stop offering mpslice.io/gb after `quota.enabled` was turned off.

Pods that were made with it keep asking for it, and those among them that still wait could never be
bound. A pod that has a node does not need it there: a kubelet that restarts leaves extended
resources out that its node does not name (kubelet/lifecycle/predicate.go).
"""

import asyncio
import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from mpslice.kube.api import PODS, Kube, list_each
from mpslice.kube.errors import KubeError
from mpslice.slices import GB_RESOURCE

QUIET_SECONDS: Final = 300.0
"""How long no waiting pod may have asked for it: replicas of the webhook that are being replaced
still complete pods as before."""

LOOK_SECONDS: Final = 60.0

log = logging.getLogger(__name__)


async def until_nobody_asks_for_gb(
    kube: Kube, *, quiet: float = QUIET_SECONDS, look: float = LOOK_SECONDS
) -> None:
    """Returns once no pod without a node has asked for mpslice.io/gb for `quiet` seconds."""
    since = monotonic()
    while monotonic() - since < quiet:
        await asyncio.sleep(look)
        try:
            # Thousands may wait in the cluster: one page of them is in memory at a time.
            waiting = list_each(kube, PODS, query={"fieldSelector": "spec.nodeName="})
            asked = [True async for pod in waiting if asks_for_gb(pod)]
        except KubeError as error:
            log.info("pods that wait cannot be listed", extra={"error": str(error)})
            since = monotonic()
        else:
            if asked:
                since = monotonic()


def asks_for_gb(pod: Mapping[str, Any]) -> bool:
    """Whether a container of the pod asks for any; 0 is a LimitRange's default."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    requests = (((each.get("resources") or {}).get("requests") or {}) for each in containers)
    return any(str(each.get(GB_RESOURCE, "0")) != "0" for each in requests)
