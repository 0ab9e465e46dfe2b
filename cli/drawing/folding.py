"""Folds things that look alike into one line: replicas of a workload, nodes, GPUs. Pure."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cli.terminal import natural

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_FEW: Final = 3


@dataclass(frozen=True, slots=True)
class Fold(Generic[T]):
    """Items that share one line; `title` is the line's name."""

    title: str
    items: tuple[T, ...]


def fold_pods(
    items: Iterable[T],
    pod: Callable[[T], str],
    alike: Callable[[T], Hashable],
    owners: Mapping[str, str],
) -> Iterator[Fold[T]]:
    """Folds pods of a workload into `ml/web ×12`, bare ones into `ml/a, ml/b and 10 more`.

    `pod` returns the key of an item's pod; items with the same `alike` are folded.
    """
    groups: dict[tuple[str, str, Hashable], list[T]] = {}
    for item in items:
        key = pod(item)
        owner = owners.get(key, "")
        groups.setdefault((owner or key.partition("/")[0], owner, alike(item)), []).append(item)
    for (_, owner, _), members in groups.items():
        names = [pod(item) for item in members]
        yield Fold(_title(owner, names), tuple(members))


def _title(owner: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{owner} ×{len(names)}" if owner else and_more(sorted(names, key=natural))


def and_more(names: Sequence[str], few: int = _FEW) -> str:
    """`a, b, c and 9 more`."""
    more = len(names) - few
    return ", ".join(names[:few]) + f" and {more} more" if more > 0 else ", ".join(names)


def alike_in_order(items: Iterable[T], alike: Callable[[T], K]) -> Iterator[tuple[K, list[T]]]:
    """Groups the items that look alike, in the order of the first of each group."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(alike(item), []).append(item)
    yield from groups.items()


def ranges(numbers: Iterable[int]) -> str:
    """`0-3, 5`, of numbers in any order."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
