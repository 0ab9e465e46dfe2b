"""Lines for people, on whatever they are read: a terminal with or without colours, a pipe, a file.

What others wrote (names, messages) is made inert, nothing is wrapped, and a screen that is drawn
again and again does not flicker. A line is data until the last moment, so that tests read text.
"""

import locale
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TextIO


class Span(NamedTuple):
    """A piece of a line; `style` is a key of STYLES."""

    text: str
    style: str = ""


Line = tuple[Span, ...]

STYLES: Final[Mapping[str, str]] = {
    "title": "1",
    "used": "34",
    "mine": "32",
    "free": "33",
    "good": "32",
    "bad": "31",
    "faint": "2",
}
"""Each style and its parameters of the terminal's Select Graphic Rendition."""

_LONGEST_NAME: Final = 253
_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_UNSET: Final = frozenset({"C", "POSIX"})
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows what is between them at once


def inert(text: object) -> str:
    """The text with every control and invisible character written as its code: `\\x1b`.

    So nothing that stands in the cluster moves the cursor, changes a colour or reverses a line.
    A line break becomes a space.
    """
    said = str(text)
    if said.isascii() and said.isprintable():
        return said
    return "".join(
        " " if c == "\n" else _code(c) if unicodedata.category(c) in _HIDDEN else c for c in said
    )


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()


def line(*parts: str | Span) -> Line:
    """A line of plain texts and spans."""
    return tuple(Span(part) if isinstance(part, str) else part for part in parts)


def text_of(lines: Iterable[Line]) -> str:
    """The lines without any style, as a pipe gets them."""
    return "\n".join("".join(span.text for span in each).rstrip() for each in lines)


def table(rows: Sequence[Sequence[str | Span]], *, right: Iterable[int] = ()) -> list[Line]:
    """The rows with their columns aligned, two spaces apart, the last one as long as it is.

    `right` are the columns that end at the same place.
    """
    cells = [[Span(c) if isinstance(c, str) else c for c in row] for row in rows]
    rights = frozenset(right)
    widths: dict[int, int] = {}
    for row in cells:
        for column, cell in enumerate(row):
            widths[column] = max(widths.get(column, 0), len(cell.text))
    lines: list[Line] = []
    for row in cells:
        found: list[Span] = []
        for column, cell in enumerate(row):
            space = Span(" " * max(0, widths.get(column, 0) - len(cell.text)))
            last = column == len(row) - 1
            found += [space, cell] if column in rights else [cell] if last else [cell, space]
            if not last:
                found.append(Span("  "))
        lines.append(tuple(found))
    return lines


def indented(lines: Iterable[Line], by: int = 2) -> list[Line]:
    """The lines further to the right."""
    return [(Span(" " * by), *each) for each in lines]


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts n2 before n10."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(p)) if p.isdecimal() and p.isascii() else (1, p) for p in parts if p)


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of bars: the edge of a slice, a used one, a free one, uncarved memory, and one
    of the namespace or plan that is shown.
    """

    edge: str = "▌"
    used: str = "█"
    free: str = "▒"
    idle: str = "·"
    mine: str = "▓"


ASCII: Final = Glyphs("|", "#", "=", ".", "+")


@dataclass(frozen=True, slots=True)
class Terminal:
    """The output. `width` and `height` are in characters, None in a pipe or a file."""

    stream: TextIO
    width: int | None = None
    height: int | None = None
    colour: bool = False
    glyphs: Glyphs = ASCII

    @classmethod
    def of(
        cls, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
    ) -> "Terminal":
        """What the stream (standard output) and the environment can do."""
        stream = sys.stdout if stream is None else stream
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # no traceback for a character
        dumb = environment.get("TERM") == "dumb"
        glyphs = ASCII if dumb or not _draws_blocks(stream, environment) else Glyphs()
        if not stream.isatty():
            return cls(stream, glyphs=glyphs)
        size = shutil.get_terminal_size()
        colour = not dumb and not environment.get("NO_COLOR")
        return cls(stream, size.columns, size.lines, colour, glyphs)

    def print(self, lines: Iterable[Line]) -> None:
        """Prints the lines as they are: a terminal wraps them by itself, a pipe never."""
        self.stream.write("".join(f"{self._styled(each)}\n" for each in lines))
        self.stream.flush()

    def _styled(self, parts: Line) -> str:
        if not self.colour:
            return "".join(part.text for part in parts).rstrip()
        return "".join(
            f"\x1b[{STYLES[part.style]}m{part.text}\x1b[0m" if part.style else part.text
            for part in parts
        ).rstrip()

    def frame(self, lines: Sequence[Line]) -> str:
        """What draws the lines over the ones before, in one write and without blanking.

        What the screen has no room for is left out, and counted in the last line.
        """
        room = max(1, (self.height or 24) - 1)
        shown = list(lines[:room])
        if len(lines) > room:
            left = len(lines) - room + 1
            shown[-1] = line(Span(f"{left} more lines; a taller window shows them", "faint"))
        drawn = [f"{self._styled(_cut(each, self.width or 80))}\x1b[K\r\n" for each in shown]
        return f"{_BEGIN}\x1b[H{''.join(drawn)}\x1b[J{_END}"


def _draws_blocks(stream: TextIO, environment: Mapping[str, str]) -> bool:
    chosen = (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    if next(filter(None, chosen), "") in _UNSET:
        return False
    try:
        "▌█▒·▓".encode(getattr(stream, "encoding", None) or locale.getpreferredencoding(False))
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cut(parts: Line, width: int) -> Line:
    found: list[Span] = []
    left = width
    for part in parts:
        if left <= 0:
            break
        found.append(part._replace(text=part.text[:left]))
        left -= len(part.text)
    return tuple(found)


class Screen:
    """The terminal's other screen, for pictures that replace one another."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __enter__(self) -> "Screen":
        self._write("\x1b[?1049h\x1b[?25l")
        return self

    def __exit__(self, *exc: object) -> None:
        self._write("\x1b[?25h\x1b[?1049l")

    def show(self, lines: Sequence[Line]) -> None:
        """Draws the lines over the ones before."""
        self._write(Terminal.of(self._terminal.stream).frame(lines))  # it may have been resized

    def _write(self, text: str) -> None:
        self._terminal.stream.write(text)
        self._terminal.stream.flush()
