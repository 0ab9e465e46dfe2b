"""Asks a cluster for the node to be like, and prints what autoscalers are told of such nodes."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cli.errors import UnusableInput
from cli.nodetemplate.formats import FORMATS
from cli.nodetemplate.offer import Offer, offer_of, sizes_in_use
from cli.plan.cluster import layout_of, node_of
from cli.plan.hardware import Assumptions, hardware_of
from cli.reading.installed import read_installed
from cli.reading.manifests import Manifest, Source
from cli.terminal import Line, Terminal, indented, inert, line, table
from mpslice.gpus import MemoryUnit
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Json, Kube, list_all
from mpslice.kube.errors import Forbidden, NotFound
from mpslice.nodelayout import NodeLayout

_SOURCE = Source("the cluster", "")


async def ask(kube: Kube, options: Namespace) -> Offer:
    """The offer of a node like the one of `--like`.

    Raises a KubeError, or UnusableInput where nothing says which GPUs it has or which sizes count.
    """
    obj = await kube.read(NODES, options.like)
    node = node_of(Manifest({"kind": "Node", **obj}, _SOURCE))
    layout = await _layout(kube, options.like)
    installed = await read_installed(kube)
    given: frozenset[str] = options.given
    limit, label = options.max_slices_per_gpu, options.node_label
    if installed.max_slices_per_gpu is not None and "max_slices_per_gpu" not in given:
        limit = installed.max_slices_per_gpu
    if installed.label is not None and "node_label" not in given:
        label = installed.label
    sizes = frozenset(options.size) or sizes_in_use(await _pods(kube, options), layout)
    if not sizes:
        raise UnusableInput("no pod asks for a slice; name the sizes, for example --size=10gb")
    if layout is None or layout.status is None or not layout.status.gpus:
        # The new node has nothing that another device plugin or pods hold.
        assumed = Assumptions(MemoryUnit[options.memory_unit], emptied=True)
        found = hardware_of(node, obj, (), assumed)
        if found.layout is None:
            raise UnusableInput(f"node {node.name} has no NodeLayout, and {_without_flag(found)}")
        layout = found.layout
    return offer_of(node, obj, layout, sizes, label=label, max_slices_per_gpu=limit)


def _without_flag(found: Any) -> str:
    return str(found.message).partition("; add --gpu")[0]


async def _layout(kube: Kube, name: str) -> NodeLayout | None:
    try:
        obj = await kube.read(NODE_LAYOUTS, name)
    except NotFound:
        return None
    return layout_of(Manifest({"kind": "NodeLayout", **obj}, _SOURCE))


async def _pods(kube: Kube, options: Namespace) -> list[Json]:
    """Returns the pods that the template counts the sizes of."""
    try:
        return await list_all(kube, PODS, namespace=options.namespace or None)
    except Forbidden as error:
        raise UnusableInput(f"{error}; name the sizes with --size, or a namespace") from error


def shown(offer: Offer, autoscaler: str, output: str) -> None:
    """Prints the offer for one autoscaler, for all where it is ""."""
    if output == "json":
        print(json.dumps(report(offer, autoscaler), indent=2))
    elif output == "yaml":
        print(yaml.safe_dump(report(offer, autoscaler), sort_keys=False), end="")
    else:
        Terminal.of().print(draw(offer, autoscaler))


def report(offer: Offer, autoscaler: str = "") -> dict[str, Any]:
    """What programs read."""
    return {
        "like": offer.node,
        "gpus": list(offer.gpus),
        "offers": dict(offer.resources),
        "warnings": list(offer.warnings),
        **{key: write(offer) for key, (_, write) in FORMATS.items() if autoscaler in ("", key)},
    }


def draw(offer: Offer, autoscaler: str = "") -> list[Line]:
    """What people read; each part can be copied as it stands."""
    gpus = f"{len(offer.gpus)} GPU{'' if len(offer.gpus) == 1 else 's'}"
    sizes = ", ".join(f"{gb}gb" for gb in offer.gpus)
    lines = [line(f"a new node like {inert(offer.node)} has {gpus} ({sizes}), and room for")]
    lines += indented(table([(name, str(count)) for name, count in offer.resources.items()]))
    for key, (title, write) in FORMATS.items():
        if autoscaler in ("", key):
            for number, part in enumerate(_parts(write(offer))):
                head = title if number == 0 else "and in the NodePool"
                lines += [line(), line(head), *indented(part)]
    if offer.warnings:
        lines += [line(), *(line(inert(each)) for each in offer.warnings)]
    return lines


def _parts(told: Mapping[str, Any]) -> Iterator[list[Line]]:
    """Tags a line each; each manifest, or what goes into one, as YAML."""
    if "tags" in told:
        yield table([(inert(key), inert(value)) for key, value in told["tags"].items()])
        return
    for part in told.values() if "nodeOverlay" in told else (told,):
        text = yaml.safe_dump(part, sort_keys=False, width=1000)
        yield [line(inert(each)) for each in text.splitlines()]
