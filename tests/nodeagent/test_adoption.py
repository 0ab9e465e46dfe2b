"""What a starting agent takes over."""

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.slices.adoption import adopt

A, GONE = GpuUuid("GPU-a"), GpuUuid("GPU-gone")


def slice_(size: int, ordinal: int = 0, uuid: GpuUuid = A) -> DeviceId:
    return DeviceId(uuid, SliceSize(size), ordinal)


def test_takes_over_what_is_held_and_what_is_free() -> None:
    adoption = adopt({A: 80}, [slice_(40)], [slice_(10), slice_(10, 1)])
    assert adoption.adopted == (slice_(40), slice_(10), slice_(10, 1))


def test_free_slice_that_does_not_fit_beside_the_held_ones_is_dropped() -> None:
    """The agent before died between a withdrawal and its report."""
    adoption = adopt({A: 80}, [slice_(80)], [slice_(10)])
    assert adoption.adopted == (slice_(80),)
    assert adoption.dropped == (slice_(10),)


def test_held_slices_are_taken_over_even_beyond_the_capacity() -> None:
    adoption = adopt({A: 10}, [slice_(10), slice_(10, 1)], [])
    assert adoption.adopted == (slice_(10), slice_(10, 1))


def test_slices_of_a_gpu_that_is_gone_are_lost() -> None:
    held, free = slice_(10, uuid=GONE), slice_(20, uuid=GONE)
    adoption = adopt({A: 80}, [held], [free, slice_(10)])
    assert adoption.lost == (held, free)
    assert adoption.adopted == (slice_(10),)


def test_no_more_than_mps_serves() -> None:
    adoption = adopt({A: 80}, [], [slice_(1, n) for n in range(50)])
    assert len(adoption.adopted) == 48
