"""`kubectl mpslice holders`: the containers that hold a slice, before a drain or an uninstall.

It reads NodeLayouts alone, so an account that can list nothing else may run it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cli.errors import UnusableInput
from mpslice.kube.api import NODE_LAYOUTS, Kube, list_all
from mpslice.kube.errors import NotFound
from mpslice.nodelayout import NodeLayout, SliceState, parse_node_layout
from mpslice.slices import SliceSize, size_label


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A used slice; `pod` and `container` are empty where the agent could not yet tell."""

    node: str
    gpu: int
    size: SliceSize
    pod: str
    container: str

    def __str__(self) -> str:
        who = f"{self.pod} {self.container}".strip() or "a container that is not known yet"
        return f"{self.node} GPU {self.gpu}: {size_label(self.size)} is held by {who}"


def holders(layouts: Iterable[NodeLayout], node: str = "") -> list[Holder]:
    """Returns the used slices, of one node or of all, by node, GPU, size and holder.

    The kubelet chooses among equal slices, so they are not sorted by their number.
    """
    found = [
        Holder(layout.name, gpu.index, each.id.size, each.pod or "", each.container or "")
        for layout in layouts
        if layout.status and node in ("", layout.name)
        for gpu in layout.status.gpus
        for each in gpu.slices
        if each.state is SliceState.USED
    ]
    return sorted(found)


async def find(kube: Kube, node: str) -> list[Holder]:
    """The cluster's holders.

    Raises a KubeError, InvalidNodeLayout where a layout cannot be read, and UnusableInput where
    mpslice is not installed.
    """
    try:
        layouts = await list_all(kube, NODE_LAYOUTS)
    except NotFound as error:
        raise UnusableInput(
            "the cluster knows no NodeLayouts; install mpslice's chart there first"
        ) from error
    return holders(map(parse_node_layout, layouts), node)
