"""`kubectl mpslice kueue-config`: how Kueue counts slices of every size as gb of one quota.

Kueue sums up what a pod requests, resource by resource, leaves out the excluded ones, and then
replaces each input by its outputs (kueue/pkg/workload/workload.go, totalRequestsFromPodSets).
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from cli.connect import add_flags, with_session
from cli.errors import UnusableInput
from mpslice.flags import FlagParser, slice_size
from mpslice.gpus import MemoryUnit
from mpslice.slices import (
    GB_RESOURCE,
    SliceSize,
    parse_resource,
    resource_name,
)

if TYPE_CHECKING:
    from mpslice.kube.api import Json, Kube
    from mpslice.kube.session import Session

_DESCRIPTION: Final = """\
Prints the part of Kueue's Configuration by which one quota in gb holds over slices of all sizes.
The sizes are those that the chart's admission.allowedSizes lists; where it lists none, those that
nodes, pods and Jobs of the cluster name. With --size or --gpu the cluster is not asked.

Examples:
  kubectl mpslice kueue-config
  kubectl mpslice kueue-config --size=10gb --size=20gb
  kubectl mpslice kueue-config --gpu=80GB"""

_HEAD: Final = """\
# A part of Kueue's Configuration (config.kueue.x-k8s.io/v1beta2; v1beta1 has the same fields) in
# the ConfigMap kueue-manager-config. ClusterQueues then cover mpslice.io/gb.
"""

_MEMORY: Final = re.compile(r"([1-9][0-9]{0,8})(MiB|Mi|GiB|Gi|GB|G)", re.ASCII)
_BYTES: Final = {"Mi": 1 << 20, "Gi": 1 << 30, "G": 10**9}
_LARGEST_GPU: Final = 1024


def add_command(commands: Any) -> None:
    """Adds the command to those of the program."""
    parser: FlagParser = commands.add_parser(
        "kueue-config",
        help="print how Kueue counts slices of every size as gb of one quota",
        description=_DESCRIPTION,
    )
    parser.repeatable("--size", slice_size, "this slice size; the cluster is not asked", "SIZE")
    text = "every size that fits on a GPU with this memory; the cluster is not asked"
    parser.repeatable("--gpu", gpu_sizes, text, "MEMORY")
    add_flags(parser, namespaces="only the sizes that pods and Jobs of this namespace ask for")
    parser.set_defaults(run=_run)


def gpu_sizes(text: str) -> range:
    """The sizes that a GPU of `80GB` or `81920MiB` holds, in gb; raises ValueError."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError("is not the memory of a GPU; write for example 80GB or 81920MiB")
    largest = int(match[1]) * _BYTES[match[2].removesuffix("B")] // MemoryUnit.GB.value
    if not 0 < largest <= _LARGEST_GPU:
        raise ValueError(f"is not between 1 and {_LARGEST_GPU} gb")
    return range(1, largest + 1)


def configuration(sizes: Iterable[SliceSize]) -> str:
    """The YAML text for these sizes, from the smallest."""
    lines = [
        f"{_HEAD}resources:",
        "  # What mpslice's own quota adds to pods would count a second time.",
        f"  excludeResourcePrefixes: [{GB_RESOURCE}]",
        "  transformations:",
    ]
    for each in sorted(set(sizes)):
        lines += [
            f"    - input: {resource_name(each)}",
            "      strategy: Replace",
            f"      outputs: {{{GB_RESOURCE}: {each}}}",
        ]
    return "\n".join(lines)


def _run(options: Namespace) -> int:
    given = [*options.size, *(SliceSize(gb) for sizes in options.gpu for gb in sizes)]
    if given:
        print(configuration(given))
        return 0

    async def ask(kube: Session) -> int:
        found, warnings = await sizes_of(kube, options.namespace or "")
        for warning in warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        if not found:
            raise UnusableInput(
                "kueue-config: nothing in the cluster names a size; give --size or --gpu"
            )
        print(configuration(found))
        return 0

    return with_session(options, ask)


async def sizes_of(kube: Kube, namespace: str) -> tuple[frozenset[SliceSize], list[str]]:
    """The sizes of the cluster, or of a namespace, and what may not be seen. Raises a KubeError."""
    from cli.reading.installed import read_installed
    from cli.rights import denied, sentence
    from mpslice.kube.api import NODES, PODS, Resource, list_all
    from mpslice.kube.errors import Forbidden

    settings = None if namespace else (await read_installed(kube)).settings
    if settings is not None and settings.allowed_sizes:
        return settings.allowed_sizes, []
    jobs = Resource("batch/v1", "jobs", namespaced=True)
    found: set[SliceSize] = set()
    warnings: list[str] = []
    for resource in (PODS, jobs) if namespace else (NODES, PODS, jobs):
        try:
            objects = await list_all(kube, resource, namespace=namespace or None)
        except Forbidden as error:
            lacking = [denied(error, "list", resource, namespace)]
            warnings.append(sentence(lacking, "sizes that only they name are missing"))
        else:
            found.update(size for each in objects for size in _named(each))
    return frozenset(found), warnings


def _named(obj: Json) -> Iterator[SliceSize]:
    """The sizes that a node's status, a pod or a Job's template names."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    pod = (spec.get("template") or {}).get("spec") or spec
    amounts: list[Mapping[str, Any]] = [status.get("capacity") or {}]
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        resources = container.get("resources") or {}
        amounts += [resources.get("limits") or {}, resources.get("requests") or {}]
    for names in amounts:
        yield from (found for name in names if (found := parse_resource(name)) is not None)
