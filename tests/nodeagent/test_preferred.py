"""The order in which the kubelet is told to take free slices, which the planner predicts with."""

from hypothesis import given
from hypothesis import strategies as st

from mpslice.allocation import GpuRoom, preferred
from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize

A, B, UNKNOWN = GpuUuid("GPU-a"), GpuUuid("GPU-b"), GpuUuid("GPU-?")


def slice_(uuid: GpuUuid, ordinal: int) -> DeviceId:
    return DeviceId(uuid, SliceSize(10), ordinal)


ALL = [slice_(A, 0), slice_(A, 10), slice_(A, 2), slice_(B, 0), slice_(B, 1)]


def test_gpu_with_least_free_memory_goes_first() -> None:
    rooms = {A: GpuRoom(0, free_gb=40), B: GpuRoom(1, free_gb=30)}
    assert preferred(ALL, 3, rooms) == (slice_(B, 0), slice_(B, 1), slice_(A, 0))


def test_lower_index_then_lower_number_decide_between_equals() -> None:
    rooms = {A: GpuRoom(1, free_gb=40), B: GpuRoom(0, free_gb=40)}
    assert preferred(ALL, 4, rooms) == (slice_(B, 0), slice_(B, 1), slice_(A, 0), slice_(A, 2))


def test_what_must_be_included_comes_first() -> None:
    rooms = {A: GpuRoom(0, 1), B: GpuRoom(1, 2)}
    must = [slice_(B, 1)]
    assert preferred(ALL, 2, rooms, must_include=must) == (slice_(B, 1), slice_(A, 0))


def test_unknown_gpu_comes_last() -> None:
    rooms = {A: GpuRoom(3, 100)}
    assert preferred([slice_(UNKNOWN, 0), slice_(A, 5)], 1, rooms) == (slice_(A, 5),)


def test_too_few_are_all_of_them() -> None:
    assert preferred([slice_(A, 0)], 3, {A: GpuRoom(0, 1)}) == (slice_(A, 0),)


@given(st.permutations(ALL))
def test_order_of_the_offer_does_not_matter(offer: list[DeviceId]) -> None:
    rooms = {A: GpuRoom(0, 40), B: GpuRoom(1, 40)}
    assert preferred(offer, 5, rooms) == preferred(ALL, 5, rooms)
