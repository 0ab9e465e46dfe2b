"""What says that pods go together and how they are spread: the one place with these names."""

from typing import Final

GROUP_LABEL: Final = "scheduling.x-k8s.io/pod-group"
"""The pods of a namespace with the same value are a group."""

SPREAD_ANNOTATION: Final = "mpslice.io/spread"
"""Keeps apart those pods of a group that have it."""

SPREAD_OVER_GPUS: Final = "gpu"
"""Its one value: no GPU holds slices of two of them."""
