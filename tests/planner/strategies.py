"""Small clusters and pods that use all that a plan has to heed, for hypothesis.

As the world has them: few sizes, GPUs of a few capacities, nodes that run out of CPU or memory
before GPUs or after them, pods of few owners. So slices meet pods that want them; odd numbers come
in now and then. A problem has some of the features only (Features): with all of them at once
hardly a pod fits anywhere, and what they do alone is not seen.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from planner.model.constraints import (
    NO_RELATIONS,
    Constraints,
    Expression,
    HostPort,
    NodeTerm,
    PodTerm,
    Relations,
    Resources,
    Spread,
    Taint,
    Toleration,
)
from planner.model.nodes import Gpu, Node, NodeState
from planner.model.pods import GATE, Group, Pod, SliceClaim
from planner.model.snapshot import Neighbours, Snapshot

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
_TAINT = Taint("dedicated", "team", "NoSchedule")
_LICENCE = "example.com/licence"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a plan is asked for."""

    snapshot: Snapshot
    pods: tuple[Pod, ...]


_usual_sizes = st.sampled_from([5, 10, 20, 40]).map(SliceSize)
_odd_sizes = st.integers(1, 40).map(SliceSize)
_usual_capacities = st.sampled_from([16, 24, 40, 48, 80, 85])
_odd_capacities = st.integers(1, 80)
_one_in_eight = st.integers(0, 7).map(lambda number: number == 7)


@dataclass(frozen=True, slots=True)
class Features:
    """What there is in a problem beside GPUs and pods that ask for slices."""

    standing: bool  # free slices
    trouble: bool  # nodes that are cordoned, tainted, not ready
    scarce: bool  # nodes that are short of CPU, memory, pods, ephemeral storage or licences
    choosy: bool  # pods with selectors, affinity, tolerations, nodes to avoid
    ports: bool
    several: bool  # pods with more slices than one
    odd: bool  # sizes and capacities that nobody sells
    crowded: bool  # GPUs that take three slices at most
    aged: bool  # pods that have waited long


features = st.builds(Features, *[st.booleans()] * 9)


def _sizes(having: Features) -> st.SearchStrategy[SliceSize]:
    return st.one_of(_usual_sizes, _odd_sizes) if having.odd else _usual_sizes


@st.composite
def gpus(draw: st.DrawFn, name: str, index: int, having: Features) -> Gpu:
    """A GPU with used and free slices, as far as they fit."""
    odd = st.one_of(_usual_capacities, _odd_capacities)
    capacity = draw(odd if having.odd else _usual_capacities)
    used: Counter[SliceSize] = Counter()
    free: Counter[SliceSize] = Counter()
    left = capacity
    in_use = st.booleans() if having.standing else st.just(True)
    for size, is_used in draw(st.lists(st.tuples(_sizes(having), in_use), max_size=3)):
        if size <= left:
            left -= size
            (used if is_used else free)[size] += 1
    uuid = GpuUuid(f"{name}-{index}")
    return Gpu(uuid, index, capacity, used=dict(used), free=dict(free))


@st.composite
def node_states(draw: st.DrawFn, name: str, having: Features) -> NodeState:
    """A node: most are usable, some cordoned, tainted, not ready, or short of something.

    What is left of it is at most what it has, so somebody may wait for what others hold.
    """
    zone = draw(st.sampled_from(["a", "b", ""]))
    rarely = _one_in_eight if having.trouble else st.just(False)
    cpu = draw(st.sampled_from([2000, 4000, 8000])) if having.scarce else 64_000
    memory = draw(st.sampled_from([4, 8, 32])) << 30 if having.scarce else 1 << 40
    node = Node(
        name,
        uid=name,
        labels={"host": name, **({"zone": zone} if zone else {})},
        taints=(_TAINT,) if draw(rarely) else (),
        unschedulable=draw(rarely),
        ready=not draw(rarely),
        allocatable=Resources(cpu, memory, 1 << 40, ((_LICENCE, 2),)),
    )
    idle, idle_pods = node.allocatable, 110
    if having.scarce:
        idle = Resources(
            cpu - draw(st.sampled_from([0, 0, 0, 1000, 2500])),  # more is held than there is
            memory - (draw(st.sampled_from([0, 0, 0, 4, 8])) << 30),
            draw(st.sampled_from([1 << 40, 1 << 40, 1 << 20, 0])),
            draw(st.sampled_from([((_LICENCE, 1),), ((_LICENCE, 2),), ()])),
        )
        idle_pods = draw(st.sampled_from([110, 110, 3, 1, 0]))
    ports = having.ports and draw(_one_in_eight)
    count = draw(st.sampled_from([1, 2, 3, 1, 2, 0]))
    return NodeState(
        node,
        tuple(draw(gpus(name, index, having)) for index in range(count)),
        idle,
        idle_pods,
        frozenset({HostPort(80)}) if ports else frozenset(),
    )


_selectors = st.sampled_from(
    [(), (), (("host", "n0"),), (("host", "n1"),), (("zone", "a"),), (("zone", "c"),)]
)
_affinities = st.sampled_from(
    [
        None,
        None,
        None,
        None,
        (NodeTerm((Expression("zone", "NotIn", ("a",)),)),),
        (NodeTerm((Expression("zone", "Exists"),)), NodeTerm()),
        (NodeTerm((), (Expression("metadata.name", "In", ("n1",)),)),),
        (),
    ]
)
_tolerations = st.sampled_from(
    [(), (), (Toleration("dedicated", "Exists"),), (Toleration("", "Exists"),)]
)
constraints = st.one_of(
    st.just(Constraints()), st.builds(Constraints, _selectors, _affinities, _tolerations)
)
requests = st.builds(
    Resources,
    st.sampled_from([0, 500, 1000, 2000]),
    st.sampled_from([0, 1, 4, 8]).map(lambda gib: gib << 30),
    st.sampled_from([0, 0, 1 << 20]),
    st.sampled_from([(), (), (), ((_LICENCE, 1),)]),
)
_web = (Expression("app", "In", ("web",)),)
_near = PodTerm("zone", _web, frozenset({"default"}))
_apart = PodTerm("host", _web, frozenset({"default"}))
relations = st.sampled_from(
    [
        Relations(affinity=(_near,)),
        Relations(anti_affinity=(_apart,)),
        Relations(spread=(Spread("zone", _web),)),
        Relations(spread=(Spread("host", _web, max_skew=2),)),
    ]
)
_ports = st.sampled_from([(), (), (HostPort(80),), (HostPort(80, "UDP"),)])
_avoided = st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"n0"})])
_ages = st.sampled_from([0, 10, 10, 299, 400, 600, 1500])  # seconds


@dataclass(frozen=True, slots=True)
class _Owner:
    """What the pods of one owner share."""

    seats: list[SliceSize]
    requests: Resources
    ports: tuple[HostPort, ...]
    constraints: Constraints
    relations: Relations
    app: str


@st.composite
def _owners(draw: st.DrawFn, having: Features, *, related: bool) -> _Owner:
    size = _sizes(having)
    most = 3 if having.several else 1
    return _Owner(
        draw(st.one_of(size.map(lambda size: [size]), st.lists(size, min_size=1, max_size=most))),
        draw(requests) if having.scarce else Resources(),
        draw(_ports) if having.ports else (),
        draw(constraints) if having.choosy else Constraints(),
        draw(relations) if related and draw(st.booleans()) else NO_RELATIONS,
        draw(st.sampled_from(["web", "db"])),
    )


@st.composite
def pods(draw: st.DrawFn, number: int, owner: _Owner, having: Features, *, grouped: bool) -> Pod:
    """A pod of its owner's."""
    name = f"p{number:02}"
    age = timedelta(seconds=draw(_ages)) if having.aged else timedelta()
    group = draw(st.sampled_from(["", "g", "h"])) if grouped else ""
    claims = tuple(SliceClaim(f"c{seat}", size, seat) for seat, size in enumerate(owner.seats))
    return Pod(
        "default",
        name,
        uid=name,
        created=(NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ"),
        priority=draw(st.integers(0, 2)),
        gates=draw(st.sampled_from([(GATE,), (GATE,), ()])),
        claims=claims,
        requests=owner.requests,
        ports=owner.ports,
        constraints=owner.constraints,
        relations=owner.relations,
        labels={"app": owner.app},
        group=group,
        min_member=draw(st.sampled_from([None, 2])) if group else None,
        avoid=draw(_avoided) if having.choosy else frozenset(),
    )


@st.composite
def problems(
    draw: st.DrawFn, *, grouped: bool = False, related: bool = False, most_pods: int = 12
) -> Problem:
    """A cluster of up to four nodes and pods for it."""
    having = draw(features)
    number = draw(st.sampled_from([1, 2, 3, 4, 2, 0]))
    states = tuple(draw(node_states(f"n{index}", having)) for index in range(number))
    count = draw(st.integers(0, most_pods))
    owners = draw(st.lists(_owners(having, related=related), min_size=1, max_size=6))
    owned = draw(st.lists(st.sampled_from(owners), min_size=count, max_size=count))
    asked = [draw(pods(n, owner, having, grouped=grouped)) for n, owner in enumerate(owned)]
    known: dict[str, Group] = {}
    if grouped:
        minimum = st.one_of(st.none(), st.integers(1, 5))
        for key in ("default/g", "default/h"):
            if draw(st.booleans()):
                known[key] = Group(draw(minimum), draw(st.integers(0, 2)))
    snapshot = Snapshot(
        states,
        max_slices_per_gpu=3 if having.crowded else 48,
        groups=known,
        now=NOW if having.aged else None,
        neighbours=Neighbours(tuple(state.node for state in states)),
    )
    return Problem(snapshot, tuple(asked))
