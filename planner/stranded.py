"""GPU memory that nobody can use, as its node lacks the CPU, the RAM or the places for pods."""

from collections.abc import Iterable, Iterator

from planner.model.nodes import NodeState
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot


def stranded_gb(snapshot: Snapshot, pending: Iterable[Pod]) -> Iterator[tuple[str, int, int]]:
    """Node, GPU index and gb of memory that is left, which even the least slice pod cannot use.

    The least: the smallest CPU and the smallest memory request of any slice pod, bound or pending.
    """
    bound = (pod for pods in snapshot.neighbours.pods.values() for pod in pods)
    requests = [pod.requests for pods in (bound, pending) for pod in pods if pod.claims]
    cpu = min((request.cpu_milli for request in requests), default=0)
    memory = min((request.memory for request in requests), default=0)
    for state in snapshot.nodes:
        if _is_full(state, cpu, memory):
            for gpu in state.gpus:
                unused = gpu.capacity - sum(size * count for size, count in gpu.used.items())
                if unused > 0:
                    yield state.node.name, gpu.index, unused


def _is_full(state: NodeState, cpu: int, memory: int) -> bool:
    idle = state.idle
    return state.idle_pods < 1 or idle.cpu_milli < cpu or idle.memory < memory
