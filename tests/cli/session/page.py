"""The page as a script: what is done to the cluster between the commands, and what they print.

A comment `<!-- then: NAME -->` is a step of the world's, a line `$ …` in a console block a command.
What differs from one run to the next is made the same here and nowhere else.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "session.md"

_PART = re.compile(r"^<!-- then: (\w+) -->$|^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHANGING = (
    (re.compile(r"\b\d+[smhd] ago +"), "1s ago  "),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-01-01T12:00:00Z"),
    (re.compile(r"\b\d+(?:\.\d+)? s\b"), "0.1 s"),
    (re.compile(r"(Unschedulable: 0/\d+ nodes are available: ).*"), r"\1…"),
)
"""Ages with what fills their column, times, how long something took, and the words of
kube-scheduler, which are others in each version."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the cluster before the next command."""

    name: str


@dataclass(frozen=True, slots=True)
class Typed:
    """A command, and what the page shows of it: all that it prints, made the same."""

    text: str
    shown: str

    @property
    def looks(self) -> bool:
        """Whether it changes nothing, and so may be typed again."""
        return self.text.startswith("kubectl mpslice ")


def script(page: str) -> Iterator[Step | Typed]:
    """The steps and commands of the page, in order."""
    for part in _PART.finditer(page):
        if part[1]:
            yield Step(part[1])
        else:
            for each in re.split(r"^\$ ", part[2], flags=re.MULTILINE)[1:]:
                text, _, shown = each.partition("\n")
                yield Typed(text, shown)


def normal(printed: str) -> str:
    """What a command printed, without what differs from one run to the next."""
    for changing, same in _CHANGING:
        printed = changing.sub(same, printed)
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines() if line.strip())


Answer = Callable[[Typed], Awaitable[str]]


async def record(page: str, do: Callable[[str], Awaitable[None]], answer: Answer) -> str:
    """The page with what its commands print now."""
    answers: list[str] = []
    for part in script(page):
        if isinstance(part, Step):
            await do(part.name)
        else:
            answers.append(f"$ {part.text}\n{await answer(part)}")
    left = iter(answers)

    def block(found: re.Match[str]) -> str:
        if found[1]:
            return found[0]
        count = len(re.findall(r"^\$ ", found[2], re.MULTILINE))
        return f"```console\n{''.join(next(left) for _ in range(count))}```"

    return _PART.sub(block, page)
