"""The index of many GPUs finds what looking at every GPU finds, whatever was seated and unseated.

Small clusters are looked through without an index, so most other tests do not come by here.
"""

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize
from planner.model.constraints import Constraints, HostPort, Resources, Taint, Toleration
from planner.model.nodes import NodeState
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from planner.packing.books import GpuBook
from planner.packing.classes import PodClass
from planner.packing.fit import seat
from planner.packing.ledger import Seating
from planner.packing.state import State
from tests.planner.test_packing import node, pod

GB = 1 << 30
TAINT = Taint("dedicated", "team", "NoSchedule")
TOLERANT = Constraints(tolerations=(Toleration(operator="Exists"),))


def cluster(dice: Random, *, standing: bool) -> Snapshot:
    """44 GPUs, more than are looked through, on nodes that have more and less CPU and memory.

    The first is tainted, so that pods that tolerate it and the others have each an index of their
    own, as have those that ask for a port of the node.
    """
    return Snapshot(tuple(_node(f"n{number:02}", dice, standing=standing) for number in range(11)))


def _node(name: str, dice: Random, *, standing: bool) -> NodeState:
    free: dict[int, Slices] = {
        index: {SliceSize(dice.choice([5, 10, 20])): 1} for index in range(4) if dice.random() < 0.5
    }
    idle = Resources(cpu_milli=dice.choice([0, 4_000, 32_000]), memory=dice.choice([8, 64]) * GB)
    capacities = [dice.choice([24, 40, 80]) for _ in range(4)]
    taints = (TAINT,) if name == "n00" else ()
    return node(name, *capacities, free=free if standing else {}, idle=idle, taints=taints)


def pods_of(dice: Random) -> list[Pod]:
    return [
        pod(
            f"p{number:02}",
            dice.choice([5, 10, 20, 24, 40, 80]),
            constraints=dice.choice([Constraints(), TOLERANT]),
            ports=dice.choice([(), (), (HostPort(80),)]),
            requests=Resources(
                cpu_milli=dice.choice([0, 500, 2_000, 4_000]), memory=dice.choice([0, 1, 4]) * GB
            ),
        )
        for number in range(40)
    ]


@settings(deadline=None)  # a busy machine is no defect
@given(seed=st.integers(0, 2**32), standing=st.booleans(), steps=st.integers(0, 60))
def test_index_finds_what_looking_at_every_gpu_finds(seed: int, standing: bool, steps: int) -> None:
    dice = Random(seed)
    pods = pods_of(dice)
    state = State(cluster(dice, standing=standing), pods, [])
    seated: list[Seating] = []
    for _ in range(steps):
        turn = dice.random()
        if turn < 0.05:
            each, one = dice.choice(state.nodes), dice.choice(pods)
            gpus = (dice.choice(each.gpus),)
            state.hold(Seating(one, state.class_of(one), each, gpus))
        elif seated and turn < 0.4:
            state.unbook(seated.pop(dice.randrange(len(seated))))
        elif (seating := seat(state, dice.choice(pods))) is not None:
            seated.append(seating)
    for alike in state.classes:
        agrees(state, alike)


def agrees(state: State, pods: PodClass) -> None:
    size, candidates = pods.largest, state.candidates(pods)
    every = [gpu for each in state.nodes if each.order in candidates.orders for gpu in each.gpus]

    def having(room: Callable[[GpuBook], int]) -> set[GpuBook]:
        return {gpu for gpu in every if room(gpu) >= size and pods.fits(gpu.node)}

    uncarved = list(candidates.fitting(candidates.with_uncarved(pods), pods))
    assert set(uncarved) == having(lambda gpu: gpu.uncarved)
    assert [gpu.uncarved for gpu in uncarved] == sorted(gpu.uncarved for gpu in uncarved)
    with_reclaimable = set(candidates.fitting(candidates.with_reclaimable(pods), pods))
    assert with_reclaimable == having(lambda gpu: gpu.reclaimable if gpu.free_count else 0)
    free = set(candidates.fitting(candidates.with_free(pods), pods))
    assert free == having(lambda gpu: gpu.reclaimable if size in gpu.free else 0)
    found = candidates.tightest(pods)
    assert (found is None) == (not uncarved)
    if found is not None:
        assert found in uncarved
        assert found.uncarved == uncarved[0].uncarved


def test_of_gpus_as_tight_one_on_a_node_that_is_written_anyway_is_taken() -> None:
    nodes = tuple(node(f"n{number:02}", *[80] * 4) for number in range(10))
    first, second = pod("a", 10), pod("b", 80)
    state = State(Snapshot(nodes), [first, second], [])
    written = state.nodes[1]
    state.book(first, state.class_of(first), written, (written.gpus[0],))
    seating = seat(state, second)
    assert seating is not None
    assert seating.node is written


def test_of_gpus_as_tight_the_one_that_was_touched_last_is_taken() -> None:
    nodes = tuple(node(f"n{number:02}", *[80] * 4) for number in range(10))
    pods = [pod("a", 10), pod("b", 10), pod("c", 70)]
    state = State(Snapshot(nodes), pods, [])
    for each, number in zip(pods[:2], (7, 3), strict=True):
        chosen = state.nodes[number]
        state.book(each, state.class_of(each), chosen, (chosen.gpus[0],))
    seating = seat(state, pods[2])
    assert seating is not None
    assert seating.node.name == "n03"
