"""Four packers to compare with, as simple as they can honestly be; each knows CPU and memory too.

Smallest-first first fit is nos's order, best-fit decreasing the textbook's, FIFO best fit what a
careful online placer does, FGD (Weng et al., ATC'23) the best known on this trace, here with
unrounded scores and gb instead of thousandths of a GPU.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from planner.model.pods import Pod
from planner.model.snapshot import Snapshot

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Packer = Callable[[Snapshot, Sequence[Pod]], list[Pod]]
"""From an empty or used cluster and pods in the order of arrival to the pods that are placed."""


class Cluster:
    """What is left of each GPU and node, as arrays; GPUs of one node stand side by side."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.states = states = [state for state in snapshot.nodes if state.gpus]
        gpus = [(number, gpu) for number, state in enumerate(states) for gpu in state.gpus]
        self.node_of = np.array([number for number, _ in gpus], dtype=np.int64)
        used = [sum(size * n for size, n in gpu.used.items()) for _, gpu in gpus]
        self.free = np.array([gpu.capacity for _, gpu in gpus], dtype=np.int64) - used
        self.cpu = np.array([state.idle.cpu_milli for state in states], dtype=np.int64)
        self.memory = np.array([state.idle.memory for state in states], dtype=np.int64)

    def fitting(self, pod: Pod) -> Ints:
        """The GPUs that can take the pod, by their place."""
        able = (self.cpu >= pod.requests.cpu_milli) & (self.memory >= pod.requests.memory)
        selector = pod.constraints.node_selector
        if selector:
            able &= [
                all(state.node.labels.get(key) == value for key, value in selector)
                for state in self.states
            ]
        found: Ints = np.flatnonzero((self.free >= pod.seats[0]) & able[self.node_of])
        return found

    def take(self, gpu: int, pod: Pod) -> None:
        node = self.node_of[gpu]
        self.free[gpu] -= pod.seats[0]
        self.cpu[node] -= pod.requests.cpu_milli
        self.memory[node] -= pod.requests.memory


def _place_all(
    cluster: Cluster, pods: Sequence[Pod], choose: Callable[[Ints, Pod], Any]
) -> list[Pod]:
    placed: list[Pod] = []
    hopeless: set[object] = set()  # room only shrinks
    for pod in pods:
        kind = pod.seats, pod.requests, pod.constraints
        if kind in hopeless:
            continue
        able = cluster.fitting(pod)
        if able.size == 0:
            hopeless.add(kind)
            continue
        cluster.take(int(choose(able, pod)), pod)
        placed.append(pod)
    return placed


def smallest_first(snapshot: Snapshot, pods: Sequence[Pod]) -> list[Pod]:
    """The smallest slice first, each on the first GPU that has room."""
    cluster = Cluster(snapshot)
    return _place_all(cluster, sorted(pods, key=lambda p: p.seats[0]), lambda able, _: able[0])


def best_fit_decreasing(snapshot: Snapshot, pods: Sequence[Pod]) -> list[Pod]:
    """The largest slice first, each on the GPU that it fills best."""
    return fifo_best_fit(snapshot, sorted(pods, key=lambda p: -p.seats[0]))


def fifo_best_fit(snapshot: Snapshot, pods: Sequence[Pod]) -> list[Pod]:
    """In the order of arrival, each on the GPU that it fills best."""
    cluster = Cluster(snapshot)
    return _place_all(cluster, pods, lambda able, _: able[np.argmin(cluster.free[able])])


def fragmentation_gradient(snapshot: Snapshot, pods: Sequence[Pod]) -> list[Pod]:
    """In the order of arrival, each where the fragmentation of its node grows least."""
    cluster = Cluster(snapshot)
    scores = _Gradient(cluster, pods)

    def choose(_: Ints, pod: Pod) -> int:
        gpu = scores.best(pod)
        scores.changed(int(cluster.node_of[gpu]))
        return gpu

    return _place_all(cluster, pods, choose)


class _Gradient:
    """For each kind of pod the best GPU of every node and its score; only what changed is redone.

    A node's fragmentation for a kind is the free gb on it that this kind cannot use: all of them
    where CPU, memory or the largest hole do not suffice, else those of the GPUs with too little
    left. Its expectation is over the mix of the instance's own pods.
    """

    def __init__(self, cluster: Cluster, pods: Sequence[Pod]) -> None:
        mix = Counter((pod.seats[0], pod.requests.cpu_milli, pod.requests.memory) for pod in pods)
        self.cluster = cluster
        self.size, self.cpu, self.memory = np.array(list(mix), dtype=np.int64).T
        # Counts, not shares: sums of whole numbers are exact, and so are ties on any machine. They
        # are broken at random, as kube-scheduler does, which places more than any order does.
        self.lot = np.random.default_rng(0).random(len(cluster.free)) / 2
        self.count = np.array(list(mix.values()), dtype=np.float64)
        nodes, counts = np.unique(cluster.node_of, return_counts=True)
        width = counts.max(initial=0)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        place = np.arange(width)
        self.exists = place[None, :] < counts[:, None]
        self.gpus = np.where(self.exists, first[:, None] + place[None, :], 0)
        self.version = np.zeros(len(nodes), dtype=np.int64)
        self.clock = 0
        self.known: dict[object, tuple[Floats, Ints, int]] = {}

    def changed(self, node: int) -> None:
        self.clock += 1
        self.version[node] = self.clock

    def best(self, pod: Pod) -> int:
        kind = pod.seats[0], pod.requests
        nodes = len(self.version)
        score, gpu, seen = self.known.get(kind) or (np.empty(nodes), np.empty(nodes, int), -1)
        stale = np.flatnonzero(self.version > seen)
        for part in np.array_split(stale, max(1, stale.size // 256)):
            score[part], gpu[part] = self._score(part, pod)
        self.known[kind] = score, gpu, self.clock
        return int(gpu[np.argmin(score)])

    def _score(self, nodes: Ints, pod: Pod) -> tuple[Floats, Ints]:
        """The least growth on each of the nodes and the GPU that has it; infinite without room.

        Growth is of whole numbers, and a lot below 1.
        """
        gpus, exists = self.gpus[nodes], self.exists[nodes]
        free = np.where(exists, self.cluster.free[gpus], 0)
        cpu, memory = self.cluster.cpu[nodes], self.cluster.memory[nodes]
        size, requests = pod.seats[0], pod.requests
        before = self._fragments(free[:, None, :], cpu, memory)
        width = free.shape[1]
        after = free[:, None, :] - size * np.eye(width, dtype=np.int64)[None, :, :]
        grown = self._fragments(after, cpu - requests.cpu_milli, memory - requests.memory) - before
        able = exists & (free >= size)
        able &= ((cpu >= requests.cpu_milli) & (memory >= requests.memory))[:, None]
        grown = np.where(able, grown + self.lot[gpus], np.inf)
        place = np.argmin(grown, axis=1)
        rows = np.arange(len(nodes))
        return grown[rows, place], gpus[rows, place]

    def _fragments(self, free: Ints, cpu: Ints, memory: Ints) -> Floats:
        """Useless gb of all pods together, (nodes, variants); free is (nodes, variants, GPUs)."""
        hosts = (cpu[:, None] >= self.cpu) & (memory[:, None] >= self.memory)  # nodes, kinds
        fits = free[:, :, None, :] >= self.size[:, None]  # nodes, variants, kinds, GPUs
        usable = np.where(fits, free[:, :, None, :], 0).sum(axis=3) * hosts[:, None, :]
        useless: Floats = free.sum(axis=2) * self.count.sum() - usable @ self.count
        return useless


BASELINES: Final[dict[str, Packer]] = {
    "smallest-first first fit": smallest_first,
    "best-fit decreasing": best_fit_decreasing,
    "FIFO best fit": fifo_best_fit,
    "FGD": fragmentation_gradient,
}
