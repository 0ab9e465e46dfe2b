"""Slice names: exact ones are parsed, attempts are recognised, everything else is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpslice.slices import (
    SliceSize,
    looks_like_slice,
    parse_resource,
    parse_size_label,
    probably_meant,
    resource_name,
    size_label,
)


@given(st.integers(min_value=1, max_value=9_999_999))
def test_every_size_survives_printing_and_parsing(size: int) -> None:
    assert parse_resource(resource_name(SliceSize(size))) == size
    assert parse_size_label(size_label(SliceSize(size))) == size
    assert looks_like_slice(resource_name(SliceSize(size)))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nvidia.com/gpu-010gb", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10GB", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-1.5gb", "nvidia.com/gpu-2gb"),
        ("nvidia.com/gpu-10gib", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu10gb", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu_10gb", "nvidia.com/gpu-10gb"),
        ("nvidia.com/GPU-10gb", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-0gb", None),
    ],
)
def test_attempt_at_a_slice_is_recognised_and_the_right_name_suggested(
    name: str, meant: str | None
) -> None:
    assert parse_resource(name) is None
    assert looks_like_slice(name)
    assert probably_meant(name) == meant


@pytest.mark.parametrize(
    "name",
    [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-1g.10gb",
        "nvidia.com/gpu-memory",
        "example.com/gpu-10gb",
        "cpu",
        "",
    ],
)
def test_other_resources_are_not_taken_for_slices(name: str) -> None:
    assert not looks_like_slice(name)
    assert parse_resource(name) is None


def test_digits_of_other_scripts_are_no_size() -> None:
    assert parse_resource("nvidia.com/gpu-١٠gb") is None
    assert parse_resource("nvidia.com/gpu-10gb\n") is None
