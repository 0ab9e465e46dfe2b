"""Candidates of pods that relate to others, by the domains that these relations look at.

Where there are few domains (zones), each has an index of its own and is asked once for a pod, not
node by node. Where there are many (hosts), a node that refuses is left out of the index until the
counts change that it refused for.
"""

from collections.abc import Hashable, Iterator, Sequence
from heapq import merge
from typing import Final

from planner.feasibility.relations import Demands
from planner.packing.books import GpuBook, NodeBook
from planner.packing.candidates import Candidates
from planner.packing.classes import PodClass

_CELLS: Final = 64  # up to so many domains are asked one by one


def related(
    demands: Demands, nodes: Sequence[NodeBook], levels: int
) -> "Candidates | CellCandidates":
    """The GPUs of the nodes for pods that have these demands."""
    cells: dict[Hashable, list[NodeBook]] = {}
    for node in nodes:
        cells.setdefault(demands.cell(node.name, node.state.node.labels), []).append(node)
    if len(cells) <= _CELLS:
        return CellCandidates(demands, nodes, list(cells.values()), levels)
    found = Candidates(nodes, levels, private=True)
    by_name = {node.name: node for node in nodes}

    def changed(names: Sequence[str] | None) -> None:
        if names is None:
            found.unblock_all()
        elif found.blocked:
            for name in names:
                found.unblock(by_name[name])

    demands.listen(by_name, changed)
    return found


class CellCandidates:
    """Candidates in few cells: within one, all nodes get the same answer from the demands."""

    def __init__(
        self,
        demands: Demands,
        nodes: Sequence[NodeBook],
        cells: Sequence[Sequence[NodeBook]],
        levels: int,
    ) -> None:
        self._demands = demands
        self._cells = [(cell[0], Candidates(cell, levels, private=True)) for cell in cells]
        self.nodes = nodes
        self.orders = frozenset(node.order for node in nodes)
        self.largest = max((each.largest for _, each in self._cells), default=0)

    def _open(self) -> Iterator[Candidates]:
        for sample, candidates in self._cells:
            if self._demands.refusal(sample.name, sample.state.node.labels) is None:
                yield candidates

    def block(self, nodes: Sequence[NodeBook]) -> None:
        for _, candidates in self._cells:
            candidates.block([node for node in nodes if node.order in candidates.orders])

    def fitting(self, gpus: Iterator[GpuBook], pods: PodClass) -> Iterator[GpuBook]:
        return (gpu for gpu in gpus if pods.may_share(gpu) and pods.fits(gpu.node))

    def with_free(self, pods: PodClass) -> Iterator[GpuBook]:
        return (gpu for each in self._open() for gpu in each.with_free(pods))

    def with_uncarved(self, pods: PodClass) -> Iterator[GpuBook]:
        return merge(*(c.with_uncarved(pods) for c in self._open()), key=lambda g: g.uncarved)

    def with_reclaimable(self, pods: PodClass) -> Iterator[GpuBook]:
        return merge(*(c.with_reclaimable(pods) for c in self._open()), key=lambda g: g.reclaimable)

    def tightest(self, pods: PodClass) -> GpuBook | None:
        found: GpuBook | None = None
        for candidates in self._open():
            gpu = candidates.tightest(pods)
            if gpu is not None and (found is None or _cost(gpu) < _cost(found)):
                found = gpu
        return found


def _cost(gpu: GpuBook) -> tuple[int, bool]:
    return gpu.uncarved, not gpu.node.carved
