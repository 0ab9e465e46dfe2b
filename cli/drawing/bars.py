"""One GPU as a bar, and its slices in words. Pure."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from cli.terminal import Glyphs, Line, Span
from mpslice.nodelayout import Slices
from mpslice.slices import SliceSize, size_label

Sized = tuple[tuple[SliceSize, int], ...]
"""Sizes with how many slices of each, the smallest first."""

NARROWEST: Final = 20
WIDEST: Final = 60
_PIPED: Final = 30
_BESIDE: Final = 40  # columns for what stands beside a bar


@dataclass(frozen=True, slots=True)
class Look:
    """A GPU's memory in gb and its slices: those in use, those for pods of this plan, free ones."""

    capacity: int
    used: Sized = ()
    new: Sized = ()
    free: Sized = ()

    @classmethod
    def of(cls, capacity: int, used: Slices, new: Slices, total: Slices) -> "Look":
        """Makes it from slices by size; `total` counts all that stand after the plan."""
        free = Counter(dict(total)) - Counter(dict(used)) - Counter(dict(new))
        return cls(capacity, *(tuple(sorted(part.items())) for part in (used, new, free)))


def cells(width: int | None) -> int:
    """Returns how many characters a bar has at this width of the terminal; None in a pipe."""
    return _PIPED if width is None else max(NARROWEST, min(WIDEST, width - _BESIDE))


def bar(look: Look, room: int, glyphs: Glyphs) -> Line:
    """The bar; the first cell of a slice is an edge, so that neighbours can be told apart."""
    spans: list[Span] = []
    drawn = 0
    kinds = (
        (look.used, glyphs.used, "used"),
        (look.new, glyphs.mine, "mine"),
        (look.free, glyphs.free, "free"),
    )
    for slices, mark, style in kinds:
        for size, count in slices:
            width = max(1, size * room // max(look.capacity, 1))
            spans.append(Span((glyphs.edge + mark * (width - 1)) * count, style))
            drawn += width * count
    spans.append(Span(glyphs.idle * max(0, room - drawn)))
    return tuple(spans)


def words(look: Look) -> Line:
    """`10gb 12gb×3`."""
    spans: list[Span] = []
    for slices, style in ((look.used, "used"), (look.new, "mine"), (look.free, "free")):
        for size, count in slices:
            label = size_label(size)
            spans += [Span(f"{label}×{count}" if count > 1 else label, style), Span(" ")]
    return tuple(spans[:-1])


def legend(glyphs: Glyphs) -> Line:
    """Says what the characters mean."""
    return (
        Span(glyphs.used, "used"),
        Span(" used  "),
        Span(glyphs.mine, "mine"),
        Span(" for a pod of this plan  "),
        Span(glyphs.free, "free"),
        Span(f" free slice  {glyphs.idle} uncarved"),
    )
