"""The command blocks of a page: what a reader would type, and what they are told to see."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_ANYTHING = "…"


@dataclass(frozen=True, slots=True)
class Command:
    """One command, with its here-document; `shown` are the lines of its output on the page."""

    text: str
    shown: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0]

    def missing(self, output: str) -> list[str]:
        """The lines of the page that the output has not got; `…` stands for anything."""
        printed = [" ".join(line.split()) for line in output.splitlines()]
        return [line for line in self.shown if not any(_fits(line, other) for other in printed)]


def _fits(line: str, printed: str) -> bool:
    parts = (re.escape(" ".join(part.split())) for part in line.split(_ANYTHING))
    return re.search(r"\s*.*?\s*".join(parts), printed) is not None


def commands(page: str) -> list[Command]:
    """Every command of a page, in order."""
    text = (PAGES / page).read_text()
    return [command for block in _BLOCK.findall(text) for command in _commands(block)]


def _commands(block: str) -> Iterator[Command]:
    lines = block.splitlines()
    while lines:
        line = lines.pop(0)
        assert line.startswith("$ "), f"no command before {line!r}"
        typed = [line.removeprefix("$ ")]
        while typed[-1].endswith("\\"):
            typed.append(lines.pop(0))
        if here := _HEREDOC.search(typed[0]):
            while typed[-1] != here[1]:
                typed.append(lines.pop(0))
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        yield Command("\n".join(typed), tuple(line for line in shown if line != _ANYTHING))
