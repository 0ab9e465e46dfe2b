"""The chart's values with their comments, as tables for its README and for the documentation.

So the chart's comments are the documentation, and neither can fall behind the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VALUES = Path(__file__).resolve().parents[1] / "helm" / "mpslice" / "values.yaml"
_KEY = re.compile(r"^( *)([A-Za-z]+):(?: (.*))?$")
_NESTED = ("resources", "tolerations", "updateStrategy")
"""Values that are more than a line."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the chart: its path with dots, its default as written, and its comment."""

    path: str
    default: str
    comment: str


def values(text: str) -> Iterator[Value]:
    """Each value in the order of the file; a group is one where no value is given beside it."""
    path: list[str] = []
    comment: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        key = _KEY.match(line)
        if key is None or any(part in _NESTED for part in path[: len(key[1]) // 2]):
            comment = [] if not line else comment
            continue
        path = [*path[: len(key[1]) // 2], key[2]]
        default = key[3] or ""
        if key[2] in _NESTED and not default:
            default = _block(lines[number + 1 :], len(key[1]))
        yield Value(".".join(path), default, " ".join(comment))
        comment = []


def _block(lines: list[str], indent: int) -> str:
    """The lines below a key, as one line of text."""
    taken = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        taken.append(line.strip())
    return "; ".join(part for part in taken if part)


def value_sections() -> Iterator[str]:
    """A heading for each group at the top, and a table of what is in it."""
    loose: list[Value] = []
    groups: dict[str, list[Value]] = {}
    heads: dict[str, str] = {}
    for value in values(_VALUES.read_text()):
        top, dot, _ = value.path.partition(".")
        if value.default and not dot:
            loose.append(value)
        elif value.default:
            groups.setdefault(top, []).append(value)
        elif not dot:
            heads[top] = value.comment
    yield from ("## General", "", *_table(loose))
    for top, members in groups.items():
        yield from (f"## {top}", "", heads.get(top, ""), "", *_table(members))


def _table(members: list[Value]) -> Iterator[str]:
    yield from ("| value | default | meaning |", "| --- | --- | --- |")
    for value in members:
        default = value.default.replace("|", "\\|")
        meaning = value.comment.replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{value.path}` | `{default}` | {meaning} |"
    yield ""
