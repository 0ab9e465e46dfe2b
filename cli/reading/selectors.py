"""Label selectors as kubectl's `-l` has them: `a=b,c!=d,e in (x, y),f notin (z),g,!h`.

Grammar: apimachinery/pkg/labels/selector.go.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from planner.feasibility.selectors import all_hold
from planner.model.constraints import Expression

_KEY: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE: Final = r"[A-Za-z0-9._-]*"
_TERM: Final = re.compile(
    rf"\s*(?:(?P<not>!)\s*)?(?P<key>{_KEY})\s*"
    rf"(?:(?P<op>==|=|!=)\s*(?P<value>{_VALUE})|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector; `text` is as it was written."""

    text: str
    requirements: tuple[Expression, ...]

    def picks(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy every requirement."""
        return all_hold(self.requirements, labels)


def parse_selector(text: str) -> Selector:
    """Raises ValueError, saying what to write."""
    requirements: list[Expression] = []
    position = 0
    while True:
        term = _TERM.match(text, position)
        if term is None or (term["not"] and (term["op"] or term["set"])):
            raise ValueError("is not a label selector; write for example gpu=a100,zone in (a, b)")
        requirements.append(_requirement(term))
        position = term.end()
        if position == len(text):
            return Selector(text, tuple(requirements))
        if text[position] != ",":
            raise ValueError("is not a label selector; put a comma between its terms")
        position += 1


def _requirement(term: re.Match[str]) -> Expression:
    key = term["key"]
    if term["set"]:
        values = tuple(value.strip() for value in term["values"].split(","))
        return Expression(key, "In" if term["set"] == "in" else "NotIn", values)
    if term["op"]:
        return Expression(key, "NotIn" if term["op"] == "!=" else "In", (term["value"],))
    return Expression(key, "DoesNotExist" if term["not"] else "Exists")
