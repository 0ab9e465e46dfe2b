"""What a search left behind: room for somebody who was refused before others were moved.

After it, nobody of a rank would fit if all lower ranks were not there, so planning again finds
nothing to do.
"""

from collections.abc import Sequence

from planner.packing.draft import Draft


def close_gaps(draft: Draft, ranks: Sequence[Sequence[int]]) -> None:
    """Seats who fits beside the units of its own rank and those before; lower ones give way."""
    for place, numbers in enumerate(ranks):
        waiting = [number for number in numbers if draft.is_lacking(number)]
        if waiting:
            lower = [n for later in ranks[place + 1 :] for n in later if draft.seated[n]]
            _fill(draft, waiting, [*dict.fromkeys([*lower, *draft.late])])


def _fill(draft: Draft, waiting: Sequence[int], lower: Sequence[int]) -> None:
    """Seats units as if `lower` were not there, who are where they were as far as that goes.

    Where all together is worth no more then, everybody stays where they are.
    """
    if not lower:
        draft.fill(waiting)
        return
    everyone, there = range(len(draft.units)), set(waiting)
    before, kept = draft.worth(everyone), draft.arrangement({*there, *lower})
    held = draft.clear(number for number in lower if number not in there)
    draft.fill(waiting)
    left = list(held.seated)
    while back := {n for n in left if draft.try_again(n, held.seated[n])}:
        left = [number for number in left if number not in back]
    if draft.worth(everyone) > before:
        draft.come_late(held.late, held.seated)
    else:
        draft.rearrange(kept)
