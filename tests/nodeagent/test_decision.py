"""The step from what stands to what is wanted: never a used slice, never more than there is."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mpslice.gpus import MAX_SLICES_PER_GPU, DeviceId, GpuUuid
from mpslice.nodelayout import GpuSpec, LayoutSpec
from mpslice.slices import SliceSize
from nodeagent.layout.decision import (
    Decision,
    Obstacle,
    Standing,
    StandingGpu,
    decide,
    still_goes,
)

CAPACITY = 85
UUIDS = (GpuUuid("GPU-a"), GpuUuid("GPU-b"))


def ids(uuid: GpuUuid, size: int, *ordinals: int) -> tuple[DeviceId, ...]:
    return tuple(DeviceId(uuid, SliceSize(size), n) for n in ordinals)


def spec(*layouts: dict[int, int], release: bool = False) -> LayoutSpec:
    gpus = tuple(
        GpuSpec(uuid, {SliceSize(size): n for size, n in layout.items()})
        for uuid, layout in zip(UUIDS, layouts, strict=False)
    )
    return LayoutSpec(gpus, release)


def standing(
    uuid: GpuUuid, *slices: Standing, healthy: bool = True, refusal: str = ""
) -> StandingGpu:
    return StandingGpu(uuid, CAPACITY, healthy, refusal, slices)


def free(uuid: GpuUuid, size: int, *ordinals: int) -> list[Standing]:
    return [Standing(device) for device in ids(uuid, size, *ordinals)]


def used(uuid: GpuUuid, size: int, *ordinals: int) -> list[Standing]:
    return [Standing(device, used=True) for device in ids(uuid, size, *ordinals)]


A, B = UUIDS


def test_carves_what_is_missing_with_the_lowest_free_numbers() -> None:
    gpu = standing(A, *free(A, 10, 1))
    assert decide([gpu], spec({10: 3})).carve == ids(A, 10, 0, 2)


def test_carves_before_it_withdraws() -> None:
    gpus = [standing(A, *free(A, 10, 0)), standing(B)]
    decision = decide(gpus, spec({80: 1}, {20: 1}))
    assert decision == Decision(carve=ids(B, 20, 0))


def test_withdraws_the_highest_numbers() -> None:
    gpu = standing(A, *free(A, 10, 0, 1, 2))
    assert decide([gpu], spec({10: 1})).withdraw == ids(A, 10, 1, 2)


def test_used_slice_stays_and_is_named_as_the_reason() -> None:
    decision = decide([standing(A, *used(A, 10, 0))], spec({80: 1}))
    assert decision.settled
    assert [b.obstacle for b in decision.blocked] == [Obstacle.SLICE_IN_USE, Obstacle.NO_ROOM]
    assert "1 of 10gb on GPU-a" in decision.blocked[0].message


def test_slice_that_is_kept_is_not_tried_again() -> None:
    kept = [Standing(device, kept=Obstacle.PODS_PENDING) for device in ids(A, 10, 0)]
    decision = decide([standing(A, *kept)], spec({80: 1}))
    assert decision.settled
    assert decision.blocked[0].obstacle is Obstacle.PODS_PENDING


def test_slice_that_is_waited_for_tells_of_all_of_its_size() -> None:
    """Who is on its way may be given any of them; each would be waited for as long."""
    kept = Standing(DeviceId(A, SliceSize(10), 2), kept=Obstacle.PODS_PENDING)
    gpus = [standing(A, *free(A, 10, 0, 1), kept, *free(A, 20, 0)), standing(B, *free(B, 10, 0))]
    decision = decide(gpus, spec({10: 1}, {}))
    assert decision.withdraw == ids(A, 20, 0)
    assert [b.obstacle for b in decision.blocked] == [Obstacle.PODS_PENDING] * 2
    assert decision.blocked[0].message.startswith("2 of 10gb on GPU-a: pods that need the size")


def test_gpu_that_is_not_listed_is_left_alone() -> None:
    gpus = [standing(A), standing(B, *free(B, 10, 0))]
    assert decide(gpus, spec({})).settled


def test_release_lists_every_gpu_as_empty() -> None:
    gpus = [standing(A, *free(A, 10, 0)), standing(B, *used(B, 10, 0))]
    decision = decide(gpus, spec({10: 5}, release=True))
    assert decision.withdraw == ids(A, 10, 0)


def test_too_many_clients_for_mps_are_refused() -> None:
    decision = decide([standing(A)], spec({1: MAX_SLICES_PER_GPU + 1}))
    assert decision.settled
    assert decision.blocked[0].obstacle is Obstacle.TOO_LARGE


SIZES = st.sampled_from([1, 5, 7, 10, 20, 40, 80])
COUNTS = st.dictionaries(SIZES, st.integers(0, 9), max_size=4)


def test_gpu_that_is_left_alone_loses_its_free_slices_whatever_is_wanted() -> None:
    gpu = standing(
        A, *used(A, 10, 0), *free(A, 10, 1), *free(A, 20, 0), refusal="it is in MIG mode"
    )
    free_ones = (*ids(A, 10, 1), *ids(A, 20, 0))
    assert decide([gpu], spec({10: 2, 40: 1})).withdraw == free_ones
    assert decide([gpu], LayoutSpec()).withdraw == free_ones


def test_why_a_gpu_is_left_alone_is_told_when_slices_are_wanted_there() -> None:
    gpu = standing(A, *used(A, 10, 0), refusal="it is in MIG mode")
    (blocked,) = decide([gpu], spec({10: 2})).blocked
    assert blocked.obstacle is Obstacle.GPU_REFUSED
    assert blocked.message == f"{A} is left alone: it is in MIG mode"
    assert decide([gpu], spec({10: 1})) == Decision()


@st.composite
def gpus(draw: st.DrawFn) -> list[StandingGpu]:
    """GPUs within their capacity, some slices used."""
    found = []
    for uuid in UUIDS:
        slices: list[Standing] = []
        room, taken = CAPACITY, set()
        for size, ordinal in draw(st.lists(st.tuples(SIZES, st.integers(0, 12)), max_size=12)):
            if size <= room and (size, ordinal) not in taken:
                taken.add((size, ordinal))
                room -= size
                device = DeviceId(uuid, SliceSize(size), ordinal)
                slices.append(Standing(device, used=draw(st.booleans())))
        refusal = draw(st.sampled_from(("", "it is in MIG mode")))
        found.append(StandingGpu(uuid, CAPACITY, draw(st.booleans()), refusal, tuple(slices)))
    return found


def step(gpu: StandingGpu, decision: Decision) -> StandingGpu:
    """What stands after a decision was carried out."""
    stay = [s for s in gpu.slices if s.id not in decision.withdraw]
    new = [Standing(device) for device in decision.carve if device.gpu == gpu.uuid]
    return replace(gpu, slices=(*stay, *new))


def run(start: list[StandingGpu], wanted: LayoutSpec) -> tuple[list[StandingGpu], Decision]:
    """Decisions until nothing is left to do; every one is checked."""
    now = start
    for _ in range(20):
        decision = decide(now, wanted)
        if decision.settled:
            return now, decision
        check(now, decision)
        now = [step(gpu, decision) for gpu in now]
    raise AssertionError("it never settles")


def check(now: list[StandingGpu], decision: Decision) -> None:
    standing_ids = {s.id: s for gpu in now for s in gpu.slices}
    assert not (decision.carve and decision.withdraw)
    assert all(not standing_ids[device].used for device in decision.withdraw)
    assert not standing_ids.keys() & set(decision.carve)
    assert len(set(decision.carve)) == len(decision.carve)
    for gpu in now:
        after = step(gpu, decision)
        assert sum(s.id.size for s in after.slices) <= gpu.capacity_gb
        assert len(after.slices) <= MAX_SLICES_PER_GPU
        assert (gpu.healthy and not gpu.refusal) or len(after.slices) <= len(gpu.slices)


@given(gpus(), st.tuples(COUNTS, COUNTS), st.booleans())
def test_used_stay_numbers_stay_and_nothing_is_oversubscribed(
    start: list[StandingGpu], layouts: tuple[dict[int, int], dict[int, int]], release: bool
) -> None:
    end, _ = run(start, spec(*layouts, release=release))
    for before, after in zip(start, end, strict=True):
        assert {s.id for s in before.slices if s.used} <= {s.id for s in after.slices}


@given(gpus(), st.tuples(COUNTS, COUNTS))
def test_settled_without_a_word_means_exactly_what_is_wanted(
    start: list[StandingGpu], layouts: tuple[dict[int, int], dict[int, int]]
) -> None:
    end, decision = run(start, spec(*layouts))
    if not decision.blocked:
        for gpu, layout in zip(end, layouts, strict=True):
            assert Counter(s.id.size for s in gpu.slices) == Counter(
                {SliceSize(size): n for size, n in layout.items() if n}
            )


@given(gpus(), st.tuples(COUNTS, COUNTS))
def test_what_fits_and_is_held_by_nobody_is_applied(
    start: list[StandingGpu], layouts: tuple[dict[int, int], dict[int, int]]
) -> None:
    nobody = [
        replace(gpu, healthy=True, refusal="", slices=tuple(Standing(s.id) for s in gpu.slices))
        for gpu in start
    ]
    end, decision = run(nobody, spec(*layouts))
    fit = [sum(size * n for size, n in layout.items()) <= CAPACITY for layout in layouts]
    assert len(decision.blocked) == fit.count(False)
    for gpu, layout, fits in zip(end, layouts, fit, strict=True):
        if fits:
            assert Counter(s.id.size for s in gpu.slices) == Counter(
                {SliceSize(size): n for size, n in layout.items() if n}
            )


def test_slices_that_a_newer_layout_has_no_place_for_either_still_go() -> None:
    a, b = UUIDS
    gpus = [standing(a, *free(a, 10, 0, 1)), standing(b, *free(b, 20, 0))]
    one, both = ids(a, 10, 1), ids(a, 10, 0, 1)
    assert still_goes(both, gpus, spec({40: 1}, {20: 1, 5: 3}))
    assert still_goes(one, gpus, spec({10: 1}))
    assert not still_goes(both, gpus, spec({10: 1}))
    assert not still_goes(one, gpus, spec({10: 2}))
    assert not still_goes(one, gpus, LayoutSpec(()))  # a GPU that is not listed is left as it is
    assert still_goes(both, gpus, spec(release=True))
    refused = [standing(a, *free(a, 10, 0, 1), refusal="it is excluded")]
    assert still_goes(both, refused, spec({10: 2}))
