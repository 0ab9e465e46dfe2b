"""Capacities and limits are what docs/design/nodelayout.md says, and never oversubscribe a GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpslice.errors import InvalidDeviceId
from mpslice.gpus import DeviceId, GpuUuid, MemoryUnit, capacity_gb, excluded_gpus, limit_mib
from mpslice.slices import SliceSize


@pytest.mark.parametrize(
    ("memory_mib", "capacity"),
    [(81920, 85), (46068, 48), (23028, 24), (15360, 16), (143771, 150)],
    ids=["A100-80GB", "L40S", "A10", "T4", "H200"],
)
def test_gpu_offers_what_it_is_sold_as(memory_mib: int, capacity: int) -> None:
    assert capacity_gb(memory_mib) == capacity


def test_binary_unit_divides_by_gibibytes() -> None:
    assert capacity_gb(81920, MemoryUnit.GiB) == 80


def test_limit_is_the_share_of_what_driver_and_mps_leave() -> None:
    limit = limit_mib(
        SliceSize(10), capacity=85, memory_mib=81920, driver_reserved_mib=626, mps_reserved_mib=256
    )
    assert limit == 9533


@given(
    memory=st.integers(min_value=1024, max_value=300_000),
    reserved=st.integers(min_value=0, max_value=2_000),
    cuts=st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=48),
)
def test_limits_of_a_full_gpu_fit_into_its_memory(
    memory: int, reserved: int, cuts: list[int]
) -> None:
    """ "Nothing is ever oversubscribed"."""
    capacity = capacity_gb(memory)
    sizes: list[int] = []
    for cut in cuts:
        if sum(sizes) + cut <= capacity:
            sizes.append(cut)
    total = sum(
        limit_mib(
            SliceSize(size),
            capacity=capacity,
            memory_mib=memory,
            driver_reserved_mib=reserved,
            mps_reserved_mib=256,
        )
        for size in sizes
    )
    assert total <= max(0, memory - reserved - 256)


def test_device_id_survives_printing_and_parsing() -> None:
    device = DeviceId(GpuUuid("GPU-00000000-0000-0000-0000-000000000001"), SliceSize(10), 3)
    assert str(device) == "GPU-00000000-0000-0000-0000-000000000001::10::3"
    assert DeviceId.parse(str(device)) == device
    assert len(str(device)) <= 63  # what the kubelet takes


@pytest.mark.parametrize(
    "text", ["", "GPU-1", "GPU-1::10", "GPU-1::010::0", "GPU-1::10::-1", "::10::0", "GPU-1::10::00"]
)
def test_anything_else_is_no_device_id(text: str) -> None:
    with pytest.raises(InvalidDeviceId, match="is not <GPU UUID>::<gb>::<number>"):
        DeviceId.parse(text)


@pytest.mark.parametrize(
    ("annotations", "excluded"),
    [
        (None, set()),
        ({}, set()),
        ({"mpslice.io/exclude-gpus": ""}, set()),
        ({"mpslice.io/exclude-gpus": " 1, GPU-aaaa ,"}, {"1", "GPU-aaaa"}),
    ],
)
def test_excluded_gpus_are_read_as_they_were_written(
    annotations: dict[str, str] | None, excluded: set[str]
) -> None:
    assert excluded_gpus({"metadata": {"annotations": annotations}}) == excluded
    assert excluded_gpus({"metadata": {}}) == frozenset()
