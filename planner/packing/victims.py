"""The pods whose end gives what is lacking and costs least: an exact choice among few. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from planner.packing.budget import Budget

_STATES: Final = 3_000
"""So many partial choices are followed. Among up to 11 pods that is all of them; among more, too,
where only GPU memory is lacking. Otherwise those that lack least are followed."""

Amounts = tuple[int, ...]
_Chain = tuple[int, "_Chain | None"]


@dataclass(frozen=True, slots=True)
class Offer:
    """What the end of a pod gives of each thing that is lacking, and what it costs.

    `limits` are the places in `allowed` that it counts against.
    """

    gives: Amounts
    cost: int
    limits: tuple[int, ...] = ()


def cheapest(
    lacking: Amounts,
    offers: Sequence[Offer],
    allowed: Amounts,
    work: Budget,
    below: int | None = None,
) -> tuple[int, tuple[int, ...]] | None:
    """The least cost of offers that together give all that is lacking, and their places.

    `allowed` says how many offers may count against each limit. None where there is no such choice,
    or none that costs less than `below`.
    """
    if below is not None and below <= 0:
        return None
    if not any(lacking):
        return 0, ()
    best: _Chain | None = None
    states: dict[tuple[Amounts, Amounts], tuple[int, _Chain | None]] = {
        (lacking, allowed): (0, None)
    }
    for place, offer in enumerate(offers):
        work.spend(len(states))
        for (before, left), (cost, chain) in [*states.items()]:
            total = cost + offer.cost
            if (below is not None and total >= below) or any(left[i] < 1 for i in offer.limits):
                continue
            after = tuple([max(0, n - given) for n, given in zip(before, offer.gives, strict=True)])
            if after == before:
                continue
            chosen = place, chain
            if not any(after):
                below, best = total, chosen
                continue
            key = after, _less(left, offer.limits)
            known = states.get(key)
            if known is None or total < known[0]:
                states[key] = total, chosen
        if len(states) > _STATES:
            nearest = nsmallest(_STATES, states.items(), key=lambda item: sum(item[0][0]))
            states = dict(nearest)
    return None if best is None or below is None else (below, _places(best))


def _less(left: Amounts, limits: Sequence[int]) -> Amounts:
    if not limits:
        return left
    return tuple([number - limits.count(i) for i, number in enumerate(left)])


def _places(chain: _Chain | None) -> tuple[int, ...]:
    places: list[int] = []
    while chain is not None:
        place, chain = chain
        places.append(place)
    return tuple(reversed(places))
