"""The volumes of pods that wait: where they can be reached from, and claims that do not exist.

Of the scheduler's volume plugins this is what can be told without a driver: the topology of bound
PersistentVolumes (plugins/volumebinding), and a claim that is not there. Where the planner may not
read them, all of it is left to the scheduler.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mpslice.kube.api import Json, Kube, Resource
from mpslice.kube.reflector import Change, Key, Reflector
from planner.model.constraints import NodeTerm
from planner.model.pods import Pod
from planner.state.parse import parse_terms

VOLUMES: Final = Resource("v1", "persistentvolumes")
CLAIMS: Final = Resource("v1", "persistentvolumeclaims", namespaced=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim: the name of its volume, "" while it has none."""

    volume: str = ""
    going: bool = False


Terms = tuple[NodeTerm, ...]


def resolve(pod: Pod, claims: Mapping[str, Claim] | None, volumes: Mapping[str, Terms]) -> Pod:
    """The pod with what its claims say; `claims` by `namespace/name`, None if they are not known.

    Sets `volume_topology` and `volume_problem`.
    """
    if not pod.volume_claims or claims is None:
        return pod
    problem = ""
    topology: dict[Terms, None] = {}  # volumes that say the same are asked once
    for name in dict.fromkeys(pod.volume_claims):
        claim = claims.get(f"{pod.namespace}/{name}")
        if claim is None:
            problem = problem or f"PersistentVolumeClaim {pod.namespace}/{name} does not exist"
        elif claim.going:
            problem = problem or f"PersistentVolumeClaim {pod.namespace}/{name} is being deleted"
        elif claim.volume in volumes:
            topology[volumes[claim.volume]] = None
    return replace(pod, volume_topology=tuple(topology), volume_problem=problem)


class Volumes:
    """Follows claims and volumes; `on_change` hears of those that a pending pod uses."""

    def __init__(self, kube: Kube, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._used: Counter[str] = Counter()  # claims of pending pods
        self.users: set[Key] = set()
        """Pending pods that use claims."""
        self._claims = Reflector(kube, CLAIMS, _project_claim, self._claim_changed)
        self._volumes = Reflector(kube, VOLUMES, _project_volume, self._volume_changed)
        self.reflectors: tuple[Reflector[Any], ...] = (self._claims, self._volumes)

    def resolve(self, pod: Pod) -> Pod:
        """As the function of that name."""
        known = all(reflector.synced.is_set() for reflector in self.reflectors)
        return resolve(pod, self._claims.objects if known else None, self._volumes.objects)

    def note(self, change: Change[Pod]) -> None:
        """A pod has changed, and with it perhaps which claims are used."""
        for pod, sign in ((change.old, -1), (change.new, 1)):
            if pod is not None and pod.volume_claims and pod.is_pending:
                for name in pod.volume_claims:
                    self._used[f"{pod.namespace}/{name}"] += sign
                (self.users.add if sign > 0 else self.users.discard)(change.key)

    def _claim_changed(self, change: Change[Claim]) -> None:
        if self._used[change.key] > 0:
            self._on_change()

    def _volume_changed(self, change: Change[Terms]) -> None:
        claims = self._claims.objects
        used = (claims.get(key) for key, count in self._used.items() if count > 0)
        if any(claim is not None and claim.volume == change.key for claim in used):
            self._on_change()


def _project_claim(obj: Json) -> Claim:
    """What cannot be read is as a claim that says nothing: the scheduler will say it."""
    spec, metadata = obj.get("spec"), obj["metadata"]
    name = spec.get("volumeName") if isinstance(spec, Mapping) else None
    return Claim(name if isinstance(name, str) else "", "deletionTimestamp" in metadata)


def _project_volume(obj: Json) -> Terms | None:
    try:
        affinity = (obj.get("spec") or {}).get("nodeAffinity") or {}
        required = affinity.get("required")
        return None if required is None else parse_terms(required)
    except (AttributeError, TypeError, ValueError):
        return None
