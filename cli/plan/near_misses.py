"""Finds pods that ask for no slice though a slice was probably meant, and says which. Pure.

Admission refuses a wrong name that begins like a slice. This module looks for names that admission
lets pass, and for slices in places that Kubernetes does not read.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cli.plan.hardware import is_whole_gpu
from mpslice.errors import InvalidQuantity
from mpslice.gpus import MIB
from mpslice.kube.shapes import dotted
from mpslice.quantities import whole
from mpslice.slices import (
    RESOURCE_PREFIX,
    SliceSize,
    looks_like_slice,
    probably_meant,
    resource_name,
)

Json = Mapping[str, Any]

_DOMAIN: Final = "nvidia.com"
_ALIASES: Final = frozenset({"mpslice.io", "nos.nebuly.com", "nebuly.com", "n8s.nebuly.com"})
_CLOSE: Final = 2  # letters that a mistyped domain differs by
_GPU_WORDS: Final = frozenset({"gpu", "gpus", "vgpu", "slice", "mps", "gpumem", "gpumemory", "mem"})
_AMOUNT: Final = re.compile(
    r"(?P<word>[a-z]*?)[-_.]?(?P<number>\d{1,7}(?:\.\d{1,3})?)[-_.]?(?P<unit>[a-z]{1,8})\Z",
    re.ASCII | re.IGNORECASE,
)
_UNIT: Final = re.compile(r"[gm]i?b?|ti?b|[gmt]i?bytes?|gigs?", re.ASCII)
_BARE_NUMBER: Final = re.compile(r"(?:gpu|gpus|slice)[-_](?P<number>\d{1,3})\Z", re.ASCII)
_LARGEST_BARE: Final = 288  # gb; more is a model's number, such as 3090
_WORDS: Final = {
    word: number
    for number, word in enumerate(
        [
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ],
        start=1,
    )
} | {"sixteen": 16, "twenty": 20, "twentyfour": 24, "thirty": 30, "forty": 40, "eighty": 80}
_MEBIBYTES: Final = frozenset(
    {"nvidia.com/gpumem", "volcano.sh/vgpu-memory", "nvidia.com/gpu-memory", "gpu-memory"}
)
"""Other projects' resources whose count is MiB of a GPU (HAMi, Volcano)."""
_GIBIBYTES: Final = frozenset({"aliyun.com/gpu-mem"})
_OTHERS: Final = frozenset({"gpumem", "gpu-mem", "gpu-memory", "vgpu-memory", "gpumemory"})
_ANYTHING: Final = f"{RESOURCE_PREFIX}<N>gb, such as {RESOURCE_PREFIX}10gb"
_MOST: Final = 10**7 - 1


@dataclass(frozen=True, slots=True)
class NearMiss:
    """What is said of one resource name. `whole`: it asks for GPUs in another way, which is not a
    mistake in a pod that asks for slices, too."""

    message: str
    whole: bool = False


def near_misses(spec: Json, offered: Collection[str]) -> list[NearMiss]:
    """What a pod's spec has in place of a slice; `offered` are the resources that nodes have."""
    found: dict[NearMiss, None] = {}
    for name, quantity in _requested(spec):
        if name not in offered or is_whole_gpu(name):
            for miss in _of_resource(name, quantity):
                found[miss] = None
    for path in _misplaced(spec, ("spec",)):
        found[NearMiss(_misplaced_text(path))] = None
    return list(found)


def _requested(spec: Json) -> Iterator[tuple[str, Any]]:
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or ():
            resources = container.get("resources") or {}
            for part in ("limits", "requests"):
                yield from (resources.get(part) or {}).items()


def _of_resource(name: str, quantity: Any) -> Iterator[NearMiss]:
    if looks_like_slice(name):
        return
    if is_whole_gpu(name):
        what = "a whole GPU" if name.startswith(f"{_DOMAIN}/gpu") else "a MIG device"
        yield NearMiss(f"{name} asks for {what}, and not for a slice", whole=True)
        return
    meant = _meant(name, quantity)
    if meant:
        yield NearMiss(f"{name} looks like {meant}")


def _meant(name: str, quantity: Any) -> str:
    """Returns the slice that was probably meant, or how a slice is written; "" for other names."""
    domain, slash, last = name.rpartition("/")
    if name in _MEBIBYTES or name in _GIBIBYTES:
        return _by_count(quantity, MIB if name in _MEBIBYTES else 1 << 30)
    if last in _OTHERS and (not slash or _is_close(domain)):
        return _ANYTHING
    ours = not slash or domain in _ALIASES or _is_close(domain)
    amount = _AMOUNT.fullmatch(last)
    unit = _unit(amount["unit"].lower()) if amount else ""
    if amount and unit and ours and _is_gpu_word(amount["word"], bare=bool(slash)):
        return probably_meant(f"{RESOURCE_PREFIX}{amount['number']}{unit}") or _ANYTHING
    bare = _BARE_NUMBER.fullmatch(last)
    if bare and ours and 0 < int(bare["number"]) <= _LARGEST_BARE:
        return resource_name(SliceSize(int(bare["number"])))
    head, _, word = last.partition("-")
    if ours and head in _GPU_WORDS and (number := _WORDS.get(word.removesuffix("gb").strip("-"))):
        return resource_name(SliceSize(number))
    return ""


def _unit(word: str) -> str:
    """Returns the unit that was probably meant, such as `gb` or `mib`; "" for another word."""
    if not _UNIT.fullmatch(word):
        return "gb" if _distance(word, "gb") <= 1 else ""
    if word.startswith("gig"):
        return "gb"
    return word if "b" in word else f"{word}b"


def _is_gpu_word(word: str, *, bare: bool) -> bool:
    """Whether what stands before the amount is `gpu`, or nearly; nothing at all in our domain."""
    if not word:
        return bare
    return word.lower() in _GPU_WORDS or _distance(word.lower(), "gpu") <= 1


def _is_close(domain: str) -> bool:
    return domain in (_DOMAIN, "nvidia") or _distance(domain, _DOMAIN) <= _CLOSE


def _distance(one: str, other: str) -> int:
    """Counts the letters that are changed, added, removed or swapped (Damerau-Levenshtein)."""
    if abs(len(one) - len(other)) > _CLOSE:
        return _CLOSE + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, last, row = row, before, [i]
        for j, b in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _by_count(quantity: Any, unit: int) -> str:
    try:
        size = -(-whole(quantity) * unit // 10**9)
    except InvalidQuantity:
        return _ANYTHING
    return resource_name(SliceSize(size)) if 0 < size <= _MOST else _ANYTHING


_Path = tuple[str | int, ...]
_SKIPPED: Final = frozenset({"nodeSelector", "labels", "annotations", "matchLabels", "env"})


def _misplaced(value: Any, at: _Path) -> Iterator[_Path]:
    """Where a slice's name is a key outside of a container's limits and requests."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _misplaced(item, (*at, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and not _is_containers_own(at) and looks_like_slice(key):
                yield (*at, key)
            elif isinstance(item, dict | list) and key not in _SKIPPED:
                yield from _misplaced(item, (*at, key))


def _is_containers_own(at: _Path) -> bool:
    """`spec.containers[0].resources.limits`."""
    return (
        len(at) == 5
        and at[1] in ("containers", "initContainers")
        and at[3] == "resources"
        and at[4] in ("limits", "requests")
    )


def _misplaced_text(path: _Path) -> str:
    if path[1:3] in (("resources", "limits"), ("resources", "requests")):
        return (
            f"{dotted(path[:3])} takes only cpu, memory and huge pages; write {path[-1]} in "
            "spec.containers[0].resources.limits"
        )
    container = (
        path[:3] if path[1] in ("containers", "initContainers") else ("spec", "containers", 0)
    )
    return (
        f"{path[-1]} stands in {dotted(path[:-1])}, where nothing reads it; write it in "
        f"{dotted((*container, 'resources', 'limits'))}"
    )
