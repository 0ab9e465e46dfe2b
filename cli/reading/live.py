"""The objects of a cluster that bear on a plan, as manifests, with the rights that a person has."""

from typing import Final

from cli.errors import UnusableInput
from cli.progress import Progress
from cli.reading.manifests import Manifest, Read, Source
from cli.rights import denied, granting, sentence
from mpslice.kube.api import NAMESPACES, NODE_LAYOUTS, NODES, PODS, Kube, Resource, list_all
from mpslice.kube.errors import Forbidden, NotFound
from planner.state.podgroups import POD_GROUPS

PRIORITY_CLASSES: Final = Resource("scheduling.k8s.io/v1", "priorityclasses")

_NEEDED: Final = {"Node": NODES, "Pod": PODS}
_USEFUL: Final = {
    "NodeLayout": (NODE_LAYOUTS, "GPUs are known by labels alone"),
    "Namespace": (NAMESPACES, "labels of namespaces count as absent"),
    "PriorityClass": (PRIORITY_CLASSES, "classes are unknown"),
    "PodGroup": (POD_GROUPS, "groups have no minimum"),
}
_SOURCE: Final = Source("the cluster", "")


async def read_cluster(kube: Kube, progress: Progress) -> Read:
    """Every object that a plan may use.

    Raises a KubeError, and UnusableInput, naming the right and the command that grants it, where
    nodes or pods may not be listed. Other kinds that are missing are warned of.
    """
    manifests: list[Manifest] = []
    warnings: list[str] = []
    for kind, resource in _NEEDED.items():
        try:
            manifests += await _listed(kube, kind, resource, progress)
        except Forbidden as error:
            lacking = [denied(error, "list", resource)]
            commands = "; ".join(granting(lacking))
            said = sentence(lacking, "a plan needs them")
            raise UnusableInput(f"{said}; an administrator can grant it: {commands}") from error
    for kind, (resource, consequence) in _USEFUL.items():
        try:
            manifests += await _listed(kube, kind, resource, progress)
        except NotFound:
            continue  # the kind is not installed
        except Forbidden as error:
            warnings.append(sentence([denied(error, "list", resource)], consequence))
    return Read(tuple(manifests), warnings=tuple(warnings))


async def _listed(kube: Kube, kind: str, resource: Resource, progress: Progress) -> list[Manifest]:
    progress.begin(f"reading {resource.plural} of the cluster")
    about = {"apiVersion": resource.api_version, "kind": kind}
    return [Manifest({**about, **item}, _SOURCE) for item in await list_all(kube, resource)]
