"""Small clusters and pods that use all that a plan has to heed, for hypothesis."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from planner.model import (
    GATE,
    NO_RELATIONS,
    Constraints,
    Expression,
    Gpu,
    Group,
    HostPort,
    Neighbours,
    Node,
    NodeState,
    NodeTerm,
    Pod,
    PodTerm,
    Relations,
    Resources,
    SliceClaim,
    Snapshot,
    Spread,
    Taint,
    Toleration,
)

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
_TAINT = Taint("dedicated", "team", "NoSchedule")
_LICENCE = "example.com/licence"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a plan is asked for."""

    snapshot: Snapshot
    pods: tuple[Pod, ...]


slice_sizes = st.integers(1, 40).map(SliceSize)


@st.composite
def gpus(draw: st.DrawFn, name: str, index: int) -> Gpu:
    """A GPU with used and free slices, as far as they fit."""
    capacity = draw(st.integers(1, 80))
    used: Counter[SliceSize] = Counter()
    free: Counter[SliceSize] = Counter()
    left = capacity
    for size, in_use in draw(st.lists(st.tuples(slice_sizes, st.booleans()), max_size=4)):
        if size <= left:
            left -= size
            (used if in_use else free)[size] += 1
    uuid = GpuUuid(f"{name}-{index}")
    return Gpu(uuid, index, capacity, used=dict(used), free=dict(free))


@st.composite
def node_states(draw: st.DrawFn, name: str) -> NodeState:
    """A node: most are usable, some cordoned, tainted, not ready, or short of something."""
    zone = draw(st.sampled_from(["a", "b", ""]))
    rarely = st.integers(0, 7).map(lambda number: number == 7)
    node = Node(
        name,
        uid=name,
        labels={"host": name, **({"zone": zone} if zone else {})},
        taints=(_TAINT,) if draw(rarely) else (),
        unschedulable=draw(rarely),
        ready=not draw(rarely),
    )
    count = draw(st.integers(0, 3))
    idle = Resources(
        draw(st.integers(-500, 8000)),
        draw(st.integers(0, 64)) << 30,
        draw(st.sampled_from([0, 1 << 30, 1 << 40])),
        draw(st.sampled_from([(), ((_LICENCE, 1),)])),
    )
    return NodeState(
        node,
        tuple(draw(gpus(name, index)) for index in range(count)),
        idle,
        draw(st.sampled_from([0, 1, 3, 110, 110, 110])),
        frozenset({HostPort(80)}) if draw(rarely) else frozenset(),
    )


constraints = st.builds(
    Constraints,
    st.sampled_from([(), (), (), (("host", "n0"),), (("zone", "a"),), (("zone", "c"),)]),
    st.sampled_from(
        [
            None,
            None,
            None,
            (),
            (NodeTerm((Expression("zone", "NotIn", ("a",)),)),),
            (NodeTerm((Expression("zone", "Exists"),)), NodeTerm()),
            (NodeTerm((), (Expression("metadata.name", "In", ("n1",)),)),),
        ]
    ),
    st.sampled_from([(), (), (Toleration("dedicated", "Exists"),), (Toleration("", "Exists"),)]),
)
requests = st.builds(
    Resources,
    st.integers(0, 3000),
    st.integers(0, 16).map(lambda gib: gib << 30),
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


@st.composite
def pods(draw: st.DrawFn, number: int, *, related: bool, grouped: bool) -> Pod:
    """A pod of one to three slices, most of one."""
    name = f"p{number:02}"
    seats = draw(
        st.one_of(
            slice_sizes.map(lambda size: [size]), st.lists(slice_sizes, min_size=1, max_size=3)
        )
    )
    age = timedelta(seconds=draw(st.integers(0, 1500)))
    own = draw(relations) if related and draw(st.booleans()) else NO_RELATIONS
    group = draw(st.sampled_from(["", "g", "h"])) if grouped else ""
    return Pod(
        "default",
        name,
        uid=name,
        created=(NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ"),
        priority=draw(st.integers(0, 2)),
        gates=draw(st.sampled_from([(GATE,), (GATE,), ()])),
        claims=tuple(SliceClaim(f"c{seat}", size, seat) for seat, size in enumerate(seats)),
        requests=draw(requests),
        ports=draw(st.sampled_from([(), (), (), (HostPort(80),), (HostPort(80, "UDP"),)])),
        constraints=draw(constraints),
        relations=own,
        labels={"app": draw(st.sampled_from(["web", "db"]))},
        group=group,
        min_member=draw(st.sampled_from([None, 2])) if group else None,
        avoid=draw(st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"n0"})])),
    )


@st.composite
def problems(
    draw: st.DrawFn, *, grouped: bool = False, related: bool = False, most_pods: int = 12
) -> Problem:
    """A cluster of up to four nodes and pods for it."""
    states = tuple(draw(node_states(f"n{index}")) for index in range(draw(st.integers(0, 4))))
    count = draw(st.integers(0, most_pods))
    asked = [draw(pods(number, related=related, grouped=grouped)) for number in range(count)]
    known: dict[str, Group] = {}
    if grouped:
        minimum = st.one_of(st.none(), st.integers(1, 5))
        for key in ("default/g", "default/h"):
            if draw(st.booleans()):
                known[key] = Group(draw(minimum), draw(st.integers(0, 2)))
    snapshot = Snapshot(
        states,
        max_slices_per_gpu=draw(st.sampled_from([3, 48])),
        groups=known,
        now=draw(st.sampled_from([None, NOW])),
        neighbours=Neighbours(tuple(state.node for state in states)),
    )
    return Problem(snapshot, tuple(asked))
