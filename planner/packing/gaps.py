"""What a search left behind: room for somebody who was refused before others were moved.

After it, nobody of a rank would fit if all lower ranks were not there, so planning again finds
nothing to do.
"""

from collections.abc import Iterable, Sequence

from planner.packing.draft import Draft


def close_gaps(draft: Draft, ranks: Sequence[Sequence[int]]) -> None:
    """Seats who fits beside the units of its own rank and those before; lower ones give way."""
    for place, numbers in enumerate(ranks):
        waiting = [number for number in numbers if draft.is_lacking(number)]
        if waiting:
            lower = [n for later in ranks[place + 1 :] for n in later if draft.seated[n]]
            _fill(draft, waiting, dict.fromkeys([*lower, *draft.late]))


def _fill(draft: Draft, waiting: Sequence[int], lower: Iterable[int]) -> None:
    """Seats units as if `lower` were not there, who are where they were as far as that goes."""
    before, late = _seats(draft, waiting), list(draft.late)
    held = draft.clear(lower)
    draft.fill(waiting)
    if _seats(draft, waiting) == before:
        for number, seated in held.items():
            draft.restore(number, seated)
    else:
        left = list(held)
        while back := {n for n in left if draft.try_again(n, held[n])}:
            left = [number for number in left if number not in back]
    draft.late = dict.fromkeys(n for n in (*late, *draft.late) if draft.seated[n])


def _seats(draft: Draft, numbers: Sequence[int]) -> int:
    return sum(len(draft.seated[number]) for number in numbers)
