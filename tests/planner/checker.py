"""What a plan promises, read as simply as it can be: nothing of the planner's code but its records.

`violations` says in sentences what a plan does that it may not do; an empty list is a good plan.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from planner.model.constraints import HostPort, Resources
from planner.model.nodes import Node, NodeState
from planner.model.plan import Placement, Plan
from planner.model.pods import Pod
from planner.model.snapshot import Snapshot
from tests.planner.checker_matching import selects, untolerated
from tests.planner.checker_relations import unbindable


def violations(snapshot: Snapshot, pending: Iterable[Pod], made: Plan) -> list[str]:
    """Everything wrong with the plan, one sentence each."""
    pods = [pod for pod in pending if pod.seats]
    placed: dict[str, list[Placement]] = {}
    for placement in made.placements:
        placed.setdefault(placement.node, []).append(placement)
    wrong = [*_accounts(snapshot, pods, made), *_groups(snapshot, pods, made)]
    withdrawn = 0
    for state in snapshot.nodes:
        here = placed.pop(state.node.name, [])
        layout = made.layouts.get(state.node.name)
        if not here and layout is None:
            continue
        wrong += _fit_together(state, here)
        wrong += _identity(state.node, here)
        wrong += _seats(state, here)
        wrong += _layout(snapshot, state, made, here)
        withdrawn += sum(_withdrawn(state, made).values())
    wrong += unbindable(snapshot, made.placements)
    wrong += [f"pods are placed on {name}, which is no node" for name in placed]
    if withdrawn != made.withdrawn:
        wrong.append(f"{withdrawn} free slices are withdrawn, the plan says {made.withdrawn}")
    return wrong


def _accounts(snapshot: Snapshot, pods: Sequence[Pod], made: Plan) -> Iterator[str]:
    """Every pod is placed or refused, once; a refusal counts every node once."""
    told = Counter(p.pod.key for p in made.placements) + Counter(r.pod.key for r in made.refusals)
    asked = Counter(pod.key for pod in pods)
    for key in told.keys() | asked.keys():
        if told[key] != asked[key]:
            yield f"{key} is pending {asked[key]} times and answered {told[key]} times"
    for refusal in made.refusals:
        if refusal.causes and sum(n for _, n in refusal.causes) != len(snapshot.nodes):
            yield f"the causes of {refusal.pod.key} do not add up to {len(snapshot.nodes)} nodes"
    strangers = made.layouts.keys() - {state.node.name for state in snapshot.nodes}
    yield from (f"{name} has a layout and is no node" for name in sorted(strangers))
    for name in sorted(made.layouts.keys() & snapshot.set_aside.keys()):
        yield f"{name} has a layout and is set aside"


def _groups(snapshot: Snapshot, pods: Sequence[Pod], made: Plan) -> Iterator[str]:
    """Of a group at least its minimum, the bound ones counted, or nothing at all."""
    pending: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.group:
            pending.setdefault(f"{pod.namespace}/{pod.group}", []).append(pod)
    placed = Counter(f"{p.pod.namespace}/{p.pod.group}" for p in made.placements if p.pod.group)
    for key, members in pending.items():
        known = snapshot.groups.get(key)
        bound = known.bound if known else 0
        said = [member.min_member for member in members if member.min_member is not None]
        if known is not None and known.minimum is not None:
            minimum = known.minimum
        else:
            minimum = max(said) if said else bound + len(members)
        if placed[key] and placed[key] + bound < minimum:
            yield f"{placed[key]} of group {key} are placed, {bound} bound, of {minimum}"


def _fit_together(state: NodeState, here: Sequence[Placement]) -> Iterator[str]:
    """What the node has left suffices for all pods placed on it together."""
    name, idle = state.node.name, state.idle
    wants = [placement.pod.requests for placement in here]
    for what, asked, left in (
        ("cpu", sum(w.cpu_milli for w in wants), idle.cpu_milli),
        ("memory", sum(w.memory for w in wants), idle.memory),
        ("ephemeral storage", sum(w.ephemeral for w in wants), idle.ephemeral),
        ("pods", len(here), state.idle_pods),
    ):
        if asked > left and asked > 0:
            yield f"{asked} {what} on {name}, which has {left}"
    extended: Counter[str] = Counter()
    for want in wants:
        extended.update(dict(want.extended))
    left_of = dict(state.idle.extended)
    for resource, amount in extended.items():
        if amount > max(0, left_of.get(resource, 0)):
            yield f"{amount} {resource} on {name}, which has {left_of.get(resource, 0)}"
    taken = list(state.ports)
    for placement in here:
        for port in placement.pod.ports:
            if any(_same_port(port, other) for other in taken):
                yield f"port {port.port} of {placement.pod.key} is taken on {name}"
        taken += placement.pod.ports


def _same_port(left: HostPort, right: HostPort) -> bool:
    one_address = left.ip == right.ip or "0.0.0.0" in {left.ip, right.ip}
    return one_address and (left.port, left.protocol) == (right.port, right.protocol)


def _identity(node: Node, here: Sequence[Placement]) -> Iterator[str]:
    """Each pod may use the node at all."""
    for placement in here:
        pod = placement.pod
        if not node.ready:
            yield f"{pod.key} is placed on {node.name}, which is not ready"
        if node.name in pod.avoid:
            yield f"{pod.key} is placed on {node.name}, which it avoids"
        if not selects(pod.constraints, node):
            yield f"the node selector or affinity of {pod.key} does not match {node.name}"
        for taint in untolerated(pod.constraints, node):
            yield f"{pod.key} does not tolerate {taint.key} of {node.name}"


def _seats(state: NodeState, here: Sequence[Placement]) -> Iterator[str]:
    """Each pod has one GPU of the node for each of its slices."""
    uuids = {gpu.uuid for gpu in state.gpus}
    for placement in here:
        if len(placement.gpus) != len(placement.pod.seats):
            yield f"{placement.pod.key} has {len(placement.gpus)} GPUs for its slices"
        for uuid in sorted(set(placement.gpus) - uuids):
            yield f"{placement.pod.key} is placed on {uuid}, which {state.node.name} has not"


def _layout(
    snapshot: Snapshot, state: NodeState, made: Plan, here: Sequence[Placement]
) -> Iterator[str]:
    """Used slices stay, placed pods find theirs, and no GPU holds more than it can."""
    name = state.node.name
    layout = made.layouts.get(name)
    if layout is not None and layout.keys() != {gpu.uuid for gpu in state.gpus}:
        yield f"the layout of {name} lists other GPUs than it has"
        return
    changed = False
    for gpu in state.gpus:
        before = Counter(gpu.used) + Counter(gpu.free)
        after = before if layout is None else +Counter(layout[gpu.uuid])
        changed |= after != before
        held = Counter(gpu.used)
        for placement in here:
            for uuid, size in zip(placement.gpus, placement.pod.seats, strict=False):
                if uuid == gpu.uuid:
                    held[size] += 1
        for size in held:
            if held[size] > after[size]:
                yield f"{held[size]} slices of {size}gb are held on {gpu.uuid}: {after[size]} exist"
        if after == before:
            continue
        carved = sum(size * count for size, count in after.items())
        if carved > gpu.capacity:
            yield f"{carved}gb are carved on {gpu.uuid}, which has {gpu.capacity}gb"
        limit = snapshot.max_slices_per_gpu
        if sum(after.values()) > max(limit, before.total()):
            yield f"{sum(after.values())} slices stand on {gpu.uuid}, of at most {limit}"
        for size in before - after:
            if carved + size <= gpu.capacity and after.total() < limit:
                yield f"a slice of {size}gb is withdrawn on {gpu.uuid} without need"
    if layout is not None and not changed:
        yield f"{name} is written though it does not change"


def _withdrawn(state: NodeState, made: Plan) -> Counter[str]:
    """By GPU, how many of the slices that stood are gone."""
    layout = made.layouts.get(state.node.name)
    if layout is None:
        return Counter()
    return Counter(
        {
            gpu.uuid: (
                Counter(gpu.used) + Counter(gpu.free) - Counter(layout.get(gpu.uuid, {}))
            ).total()
            for gpu in state.gpus
        }
    )


def could_replace(snapshot: Snapshot, made: Plan, pod: Pod, leaving: Placement) -> bool:
    """Whether a pod without relations would fit on the node of a placed one if that were not there.

    Free slices may all go. What is reserved for somebody may not be taken: GPUs, CPU and memory.
    """
    state = next(state for state in snapshot.nodes if state.node.name == leaving.node)
    kept = [each.pod for each in made.reservations if each.node == leaving.node]
    state = _without(state, [each for each in kept if each is not pod])
    here = [p for p in made.placements if p.node == leaving.node and p.pod is not leaving.pod]
    coming = Placement(pod, leaving.node, ())
    if [*_identity(state.node, [coming])] or [*_fit_together(state, [*here, coming])]:
        return False
    reserved = {uuid for each in made.reservations for uuid in each.gpus}
    rooms: list[tuple[int, int]] = []  # gb and slices that there is room for
    for gpu in state.gpus:
        held = Counter(gpu.used)
        for placement in here:
            for uuid, size in zip(placement.gpus, placement.pod.seats, strict=True):
                if uuid == gpu.uuid:
                    held[size] += 1
        if gpu.uuid not in reserved:
            carved = sum(size * count for size, count in held.items())
            rooms.append((gpu.capacity - carved, snapshot.max_slices_per_gpu - held.total()))
    return _can_seat(sorted(pod.seats, reverse=True), rooms)


def _without(state: NodeState, kept: Sequence[Pod]) -> NodeState:
    """The node with that much less left as these pods ask for."""
    idle = state.idle
    extended = Counter(dict(idle.extended))
    for pod in kept:
        extended.subtract(dict(pod.requests.extended))
    left = Resources(
        max(0, idle.cpu_milli - sum(pod.requests.cpu_milli for pod in kept)),
        max(0, idle.memory - sum(pod.requests.memory for pod in kept)),
        max(0, idle.ephemeral - sum(pod.requests.ephemeral for pod in kept)),
        tuple(sorted(extended.items())),
    )
    return replace(state, idle=left, idle_pods=state.idle_pods - len(kept))


def _can_seat(sizes: Sequence[int], rooms: Sequence[tuple[int, int]]) -> bool:
    """Whether every slice finds a GPU, by trying all."""
    if not sizes:
        return True
    first, *rest = sizes
    return any(
        _can_seat(rest, [*rooms[:place], (gb - first, slices - 1), *rooms[place + 1 :]])
        for place, (gb, slices) in enumerate(rooms)
        if gb >= first and slices >= 1
    )
