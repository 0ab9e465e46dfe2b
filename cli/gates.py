"""`kubectl mpslice ungate`: takes mpslice's scheduling gate away from pods that still carry it.

For a cluster that mpslice was removed from: nothing else there knows the gate, so those pods would
stay SchedulingGated. It does not need mpslice in the cluster.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mpslice.kube.api import MUTATING_WEBHOOKS, PODS, Json, Kube, PatchType, list_all
from mpslice.kube.errors import Conflict, KubeError, NotFound
from planner.model.pods import GATE

CONFIGURATION = "mpslice-pods"
"""The webhook configuration that gives pods the gate."""

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Gated:
    """A pod that carries the gate, and its other gates."""

    namespace: str
    name: str
    uid: str
    version: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        waits = f", and waits for {', '.join(self.others)}" if self.others else ""
        return f"{self.namespace}/{self.name} carries the gate {GATE}{waits}"


def gated(pods: Iterable[Json]) -> Iterator[Gated]:
    """Returns the pods that carry the gate, in the given order."""
    for pod in pods:
        names = [str(gate.get("name")) for gate in pod["spec"].get("schedulingGates") or ()]
        if GATE in names:
            meta: dict[str, Any] = pod["metadata"]
            others = tuple(name for name in names if name != GATE)
            version = str(meta.get("resourceVersion") or "")
            yield Gated(meta["namespace"], meta["name"], str(meta["uid"]), version, others)


async def find_gated(kube: Kube, namespace: str = "") -> list[Gated]:
    """Returns the gated pods of a namespace, or of all. Raises a KubeError."""
    return list(gated(await list_all(kube, PODS, namespace=namespace or None)))


async def is_installed(kube: Kube) -> bool:
    """Whether new pods still get the gate. Raises a KubeError."""
    try:
        await kube.read(MUTATING_WEBHOOKS, CONFIGURATION)
    except NotFound:
        return False
    return True


async def ungate(kube: Kube, pod: Gated) -> str:
    """Takes the gate away; returns the error's message where that was refused, else "".

    A pod that is deleted meanwhile has no gate either.
    """
    for _ in range(_TRIES):
        body = {
            "metadata": {"uid": pod.uid, "resourceVersion": pod.version},
            "spec": {"schedulingGates": [{"name": name} for name in pod.others] or None},
        }
        try:
            await kube.patch(PODS, pod.name, body, type=PatchType.MERGE, namespace=pod.namespace)
        except NotFound:
            return ""
        except Conflict as error:
            try:
                now = list(gated([await kube.read(PODS, pod.name, namespace=pod.namespace)]))
            except NotFound:
                return ""
            if not now or now[0].uid != pod.uid:
                return ""
            pod, refused = now[0], str(error)
        except KubeError as error:
            return str(error)
        else:
            return ""
    return refused
