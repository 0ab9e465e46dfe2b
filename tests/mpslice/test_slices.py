"""Slice names: exact ones are parsed, attempts are recognised, everything else is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpslice.slices import (
    LOOKALIKE,
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
        ("nvidia.com/gpu.10gb", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10Gi", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10-GiB", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10gbs", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-10gigabytes", "nvidia.com/gpu-10gb"),
        ("nvidia.com/gpu-0.5gb", "nvidia.com/gpu-1gb"),
        ("nvidia.com/gpu-512mb", "nvidia.com/gpu-1gb"),
        ("nvidia.com/gpu-8000mb", "nvidia.com/gpu-8gb"),
        ("nvidia.com/gpu-8001mb", "nvidia.com/gpu-9gb"),
        ("nvidia.com/gpu-8192MiB", "nvidia.com/gpu-8gb"),
        ("nvidia.com/gpu-8192Mi", "nvidia.com/gpu-8gb"),
        ("nvidia.com/gpu-1tb", "nvidia.com/gpu-1000gb"),
        ("nvidia.com/gpu-1.5TiB", "nvidia.com/gpu-1536gb"),
        ("nvidia.com/gpu-0gb", None),
        ("nvidia.com/gpu-0.0mb", None),
        ("nvidia.com/gpu-10000000gb", None),
        (f"nvidia.com/gpu-{'9' * 5000}gb", None),
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
        "nvidia.com/gpu0",
        "nvidia.com/gpu-10",
        "nvidia.com/gpu-3090",
        "nvidia.com/gpu-2080ti",
        "nvidia.com/gpu-1660super",
        "nvidia.com/gpu-3080mobile",
        "nvidia.com/gpu-940mx",
        "nvidia.com/gpu-a100",
        "nvidia.com/gpu-a10g",
        "nvidia.com/gpu-3090-24gb",
        "nvidia.com/gpu-80gb-a100",
        "nvidia.com/gpumem",
        "example.com/gpu-10gb",
        "cpu",
        "",
    ],
)
def test_other_resources_are_not_taken_for_slices(name: str) -> None:
    assert not looks_like_slice(name)
    assert parse_resource(name) is None


@given(
    model=st.integers(0, 9999),
    series=st.sampled_from(["", "a", "h", "l", "rtx-", "gtx", "t", "v", "gb", "mx"]),
    suffix=st.sampled_from(["", "ti", "super", "tisuper", "mobile", "d", "s", "x", "m", "g", "-0"]),
    separator=st.sampled_from(["", "-", "_", "."]),
)
def test_names_of_products_and_numbers_of_gpus_are_not_taken_for_slices(
    model: int, series: str, suffix: str, separator: str
) -> None:
    assert not looks_like_slice(f"nvidia.com/gpu{separator}{series}{model}{suffix}")


@given(st.from_regex(LOOKALIKE, fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_every_attempt_gets_a_slice_that_is_large_enough_or_none(name: str) -> None:
    meant = probably_meant(name.upper().replace("NVIDIA.COM", "nvidia.com"))
    assert meant == probably_meant(name)
    assert meant is None or parse_resource(meant) is not None


def test_digits_of_other_scripts_are_no_size() -> None:
    assert parse_resource("nvidia.com/gpu-١٠gb") is None
    assert parse_resource("nvidia.com/gpu-10gb\n") is None
