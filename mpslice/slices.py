"""Slice sizes and their resource names: the one place that knows `nvidia.com/gpu-<N>gb`.

A name is parsed once, at the edge; everything behind it handles `SliceSize`, whole gb.
"""

import re
from typing import Final, NewType

SliceSize = NewType("SliceSize", int)
"""Whole gb of one GPU's memory, at least 1. What a gb is: `mpslice.gpus.capacity_gb`."""

RESOURCE_PREFIX: Final = "nvidia.com/gpu-"
WHOLE_GPU: Final = "nvidia.com/gpu"
MIG_PREFIX: Final = "nvidia.com/mig-"

_SIZE = re.compile(r"([1-9][0-9]{0,6})gb", re.ASCII)
_RESOURCE = re.compile(re.escape(RESOURCE_PREFIX) + _SIZE.pattern, re.ASCII)
_LOOKALIKE = re.compile(r"nvidia\.com/gpu[-_]?[0-9].*", re.ASCII | re.IGNORECASE)
_MEANT = re.compile(r"nvidia\.com/gpu[-_]?([0-9]+(?:\.[0-9]+)?)", re.ASCII | re.IGNORECASE)


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


def looks_like_slice(name: str) -> bool:
    """Whether a resource name is a slice's or somebody's attempt at one.

    The same pattern stands in CEL in the chart's `matchConditions`; a test holds them together.
    Names that NVIDIA's own plugins use (`nvidia.com/gpu`, `gpu.shared`, `mig-1g.10gb`) are not it.
    """
    return _LOOKALIKE.fullmatch(name) is not None


def probably_meant(name: str) -> str | None:
    """The resource name that a lookalike most likely stands for: fractions are rounded up.

    None when there is nothing to suggest (`gpu-0gb`).
    """
    match = _MEANT.match(name)
    if match is None:
        return None
    whole, _, fraction = match[1].partition(".")
    size = int(whole[:7]) + (1 if fraction.strip("0") else 0)
    return resource_name(SliceSize(size)) if size > 0 else None
