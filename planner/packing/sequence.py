"""The order in which placed pods can be bound: the planned one, but a pod that another has to be
bound before comes after that.
"""

from collections.abc import Sequence

from planner.packing.ledger import Seating
from planner.packing.state import State


def in_turn(state: State) -> Sequence[Seating]:
    """All seatings in that order."""
    planned = [seating for seatings in state.placed for seating in seatings]
    relations = state.relations
    demands = (seating.pods.demands for seating in planned)
    if not relations.active or not any(each and each.may_relent for each in demands):
        return planned
    for seating in planned:
        relations.remove(seating.pod, seating.node.name)
    left, found = planned, list[Seating]()
    while left:
        later = []
        for seating in left:
            if relations.refuses(seating.pod, seating.node.name) is None:
                relations.add(seating.pod, seating.node.name)
                found.append(seating)
            else:
                later.append(seating)
        if len(later) == len(left):
            return [*found, *later]
        left = later
    return found
