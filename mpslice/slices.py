"""Slice sizes and their resource names: the one place that knows `nvidia.com/gpu-<N>gb`.

A name is parsed once, at the edge; everything behind it handles `SliceSize`, whole gb.
"""

import math
import re
from fractions import Fraction
from typing import Final, NewType

SliceSize = NewType("SliceSize", int)
"""Whole gb of one GPU's memory, at least 1. What a gb is: `mpslice.gpus.capacity_gb`."""

RESOURCE_PREFIX: Final = "nvidia.com/gpu-"
WHOLE_GPU: Final = "nvidia.com/gpu"
MIG_PREFIX: Final = "nvidia.com/mig-"
DEVICE_CLASS_PREFIX: Final = "deviceclass.resource.kubernetes.io/"
"""A device of a DeviceClass, asked for as an extended resource (KEP-5004)."""

GB_RESOURCE: Final = "mpslice.io/gb"
"""With `quota.enabled`, the gb that a node offers, and that a pod holds in slices of any size."""

LARGEST_SIZE: Final = SliceSize(10**7 - 1)
"""What a slice's name has digits for."""

LOOKALIKE: Final = (
    "^nvidia[.]com/gpu[-_.]?([0-9]+([.][0-9]+)?)[-_.]?"
    "([gmt]i?b(s|ytes?)?|[gm]i|(giga|gibi|mega|mebi|tera|tebi)bytes?)$"
)
"""A name in lower case that is a slice's or an attempt at one; the chart's CEL has the same text.

An amount of memory has to stand there, and nothing else: `gpu0`, `gpu-3090`, `gpu-2080ti`,
`gpu-a100` and `gpu-3080mobile` are names of other people's device plugins. RE2 and Python's re read
it alike.
"""

_SIZE = re.compile(r"([1-9][0-9]{0,6})gb", re.ASCII)
_RESOURCE = re.compile(re.escape(RESOURCE_PREFIX) + _SIZE.pattern, re.ASCII)
_LOOKALIKE = re.compile(LOOKALIKE.replace("$", r"\Z"), re.ASCII | re.IGNORECASE)

looks_like_slice: Final = _LOOKALIKE.match
"""Whether a resource name is a slice's or somebody's attempt at one; a call less than a function,
for every resource of every pod."""

_GB_PER_UNIT = {
    "g": Fraction(1),
    "gi": Fraction(1),  # as with `mps.memoryUnit: GiB`, where `10gb` means 10 GiB
    "m": Fraction(1, 1000),
    "mi": Fraction(1, 1024),
    "t": Fraction(1000),
    "ti": Fraction(1024),
}
_LONG_UNITS = {"giga": "g", "gibi": "gi", "mega": "m", "mebi": "mi", "tera": "t", "tebi": "ti"}
_LONGEST_NUMBER = 20  # characters


def resource_name(size: SliceSize) -> str:
    """`nvidia.com/gpu-10gb` for 10."""
    return f"{RESOURCE_PREFIX}{size}gb"


def parse_resource(name: str) -> SliceSize | None:
    """The size that a resource name stands for, or None when it is not exactly a slice's."""
    match = _RESOURCE.fullmatch(name)
    return SliceSize(int(match[1])) if match else None


def size_label(size: SliceSize) -> str:
    """`10gb` for 10: how a NodeLayout, an annotation and a message write a size."""
    return f"{size}gb"


def parse_size_label(label: str) -> SliceSize | None:
    """The size that `10gb` stands for, or None."""
    match = _SIZE.fullmatch(label)
    return SliceSize(int(match[1])) if match else None


def probably_meant(name: str) -> str | None:
    """The resource name that a lookalike most likely stands for, rounded up to whole gb.

    `nvidia.com/gpu-512mb` stands for 1gb, `gpu-1.5gb` for 2gb, `gpu-1tb` for 1000gb, `gpu-010gb`
    for 10gb. None when there is nothing to suggest (`gpu-0gb`).
    """
    match = _LOOKALIKE.match(name)
    if match is None:
        return None
    number, unit = match[1].lstrip("0"), match[3].lower()
    if len(number) > _LONGEST_NUMBER:
        return None
    short = _LONG_UNITS.get(unit[:4]) or unit.partition("b")[0]
    size = math.ceil(Fraction(f"0{number}") * _GB_PER_UNIT[short])
    return resource_name(SliceSize(size)) if 0 < size <= LARGEST_SIZE else None
