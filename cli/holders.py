"""`kubectl mpslice holders`: the containers that hold a slice, for who drains, moves or uninstalls.

Read from the NodeLayouts alone, so that an account that may list those and nothing else can ask.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cli.errors import UnusableInput
from mpslice.kube.api import NODE_LAYOUTS, list_all
from mpslice.kube.errors import NotFound
from mpslice.kube.session import Session
from mpslice.nodelayout import NodeLayout, SliceState, parse_node_layout
from mpslice.slices import size_label


@dataclass(frozen=True, slots=True)
class Holder:
    """A used slice; `pod` and `container` are empty where the agent could not yet tell."""

    node: str
    gpu: int
    size: str
    pod: str
    container: str

    def __str__(self) -> str:
        who = f"{self.pod} {self.container}".strip() or "a container that is not known yet"
        return f"{self.node} GPU {self.gpu}: {self.size} is held by {who}"


def holders(layouts: Iterable[NodeLayout], node: str = "") -> list[Holder]:
    """Every used slice, of one node or of all."""
    return [
        Holder(
            layout.name, gpu.index, size_label(each.id.size), each.pod or "", each.container or ""
        )
        for layout in sorted(layouts, key=lambda layout: layout.name)
        if layout.status and node in ("", layout.name)
        for gpu in layout.status.gpus
        for each in gpu.slices
        if each.state is SliceState.USED
    ]


async def find(kubeconfig: str | None, node: str) -> list[Holder]:
    """The cluster's holders; `kubeconfig` None takes the credentials of the pod that asks.

    Raises a KubeError, InvalidNodeLayout where a layout cannot be read, and UnusableInput where
    mpslice is not.
    """
    async with await Session.connect("cli", kubeconfig) as kube:
        try:
            layouts = await list_all(kube, NODE_LAYOUTS)
        except NotFound as error:
            raise UnusableInput(
                "the cluster knows no NodeLayouts; install mpslice's chart there first"
            ) from error
    return holders(map(parse_node_layout, layouts), node)
