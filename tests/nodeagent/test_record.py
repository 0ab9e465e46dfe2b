"""One slice: the steps that it may take, and the holder that follows from incomplete evidence."""

from itertools import product

import pytest

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.errors import IllegalStep
from nodeagent.slices.evidence import Claim, Holder, Pods, Reading
from nodeagent.slices.pods import Need, PodFacts
from nodeagent.slices.record import Allocated, Event, Phase, Slice, step
from nodeagent.slices.table import SliceTable
from tests.nodeagent.orders import GPU


def slice_(ordinal: int = 0) -> DeviceId:
    return DeviceId(GpuUuid("GPU-a"), SliceSize(10), ordinal)


ONE = slice_()


def in_phase(phase: Phase) -> Slice:
    """A slice as it comes to be in that phase."""
    ways = {
        Phase.ABSENT: (),
        Phase.LOST: (Event.MISSED,),
        Phase.CARVED: (Event.CARVED,),
        Phase.BINDABLE: (Event.CARVED, Event.SHOWN),
        Phase.CLOSED: (Event.ADOPTED, Event.CLOSED),
        Phase.RETIRED: (Event.ADOPTED, Event.CLOSED, Event.RETIRED),
    }
    found = Slice(ONE)
    for event in ways[phase]:
        found = step(found, event)
    assert found.phase is phase
    return found


LEGAL = {
    (Phase.ABSENT, Event.CARVED): Phase.CARVED,
    (Phase.ABSENT, Event.ADOPTED): Phase.BINDABLE,
    (Phase.LOST, Event.ADOPTED): Phase.BINDABLE,
    (Phase.ABSENT, Event.MISSED): Phase.LOST,
    (Phase.CARVED, Event.SHOWN): Phase.BINDABLE,
    (Phase.CARVED, Event.CLOSED): Phase.CLOSED,
    (Phase.BINDABLE, Event.CLOSED): Phase.CLOSED,
    (Phase.CLOSED, Event.RETIRED): Phase.RETIRED,
    (Phase.CLOSED, Event.RESTORED): Phase.BINDABLE,
    (Phase.RETIRED, Event.RESTORED): Phase.BINDABLE,
    (Phase.RETIRED, Event.REMOVED): Phase.ABSENT,
    (Phase.LOST, Event.DROPPED): Phase.ABSENT,
}


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_slice_takes_the_steps_of_the_table_and_no_others(phase: Phase, event: Event) -> None:
    before = in_phase(phase)
    if (phase, event) in LEGAL:
        assert step(before, event).phase is LEGAL[phase, event]
    else:
        with pytest.raises(IllegalStep, match=f"is {phase} and cannot be {event}"):
            step(before, event)


def test_slice_in_use_is_not_removed() -> None:
    used = step(in_phase(Phase.RETIRED), Allocated(1.0))
    with pytest.raises(IllegalStep, match="is Retired and used and cannot be removed"):
        step(used, Event.REMOVED)


@pytest.mark.parametrize("phase", [Phase.ABSENT, Phase.LOST])
def test_slice_that_does_not_stand_is_not_allocated(phase: Phase) -> None:
    with pytest.raises(IllegalStep, match="cannot be allocated"):
        step(in_phase(phase), Allocated(1.0))


def test_slice_that_was_never_shown_is_not_bindable_after_a_withdrawal_that_was_given_up() -> None:
    closed = step(in_phase(Phase.CARVED), Event.CLOSED)
    assert step(closed, Event.RESTORED).phase is Phase.CARVED


# The holder, by way of the table.


def pod(name: str, uid: str = "", *, ended: bool = False, stopped: bool = False) -> PodFacts:
    needs = (Need("main", SliceSize(10)),)
    return PodFacts(f"ns/{name}", uid or f"uid-{name}", needs, ended=ended, stopped=stopped)


def listed(name: str, container: str = "main", *, on: DeviceId = ONE) -> Claim:
    return Claim(on, container, pod=f"ns/{name}")


def checkpointed(uid: str, container: str = "main", *, on: DeviceId = ONE) -> Claim:
    return Claim(on, container, uid=uid)


class Told:
    """A table with two slices, and what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        self.seen = Pods()
        self.table = SliceTable([], lambda: self.seen)
        self.table.adopt([ONE, slice_(1)])
        monkeypatch.setattr("nodeagent.slices.table.monotonic", lambda: self.now)

    def pods(self, *pods: PodFacts) -> None:
        """The watch shows these."""
        self.seen = Pods.of(pods)
        self.table.judge()

    def allocate(self) -> None:
        self.now += 1
        self.table.allocate([ONE])

    def read(self, *claims: Claim, at: float = 0.0, complete: bool = True) -> Holder | None:
        """A reading that began a second later than all before, or at a time; the holder then."""
        self.now += 1
        names = tuple(claim for claim in claims if claim.pod)
        uids = tuple(claim for claim in claims if not claim.pod)
        reading = Reading(at or self.now, names, uids, complete).with_uids(self.seen)
        self.table.read(reading)
        return self.holder

    @property
    def holder(self) -> Holder | None:
        return self.table.get(ONE).holder

    @property
    def leftovers(self) -> tuple[Holder, ...]:
        return self.table.get(ONE).leftovers


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


A, B = Holder("ns/a", "main", "uid-a"), Holder("ns/b", "main", "uid-b")


def test_allocate_is_not_explained_by_the_pod_that_had_the_slice_before(told: Told) -> None:
    """A was force-deleted and the watch is late; the checkpoint is the one written for A."""
    told.pods(pod("a"))
    assert told.read(listed("a"), checkpointed("uid-a")) == A
    told.allocate()
    assert told.read(checkpointed("uid-a")) == Holder()
    assert ONE in told.table.holders
    told.pods()  # now the watch tells of the deletion
    assert told.holder == Holder()
    assert told.leftovers == (A,)
    told.pods(pod("b"))
    assert told.read(listed("b"), checkpointed("uid-b")) == B


def test_reading_that_began_before_the_allocate_does_not_explain_it(told: Told) -> None:
    told.pods(pod("a"), pod("b"))
    told.allocate()
    asked = told.now
    assert told.read(listed("b"), checkpointed("uid-b"), at=asked - 0.5) == Holder()
    assert told.read(checkpointed("uid-a"), at=asked + 0.5) == A


def test_pod_may_have_its_slice_again_for_its_next_container(told: Told) -> None:
    """The kubelet asks again for an init container's slice."""
    told.pods(pod("a"))
    told.read(checkpointed("uid-a", "init"))
    told.allocate()
    claims = (listed("a"), checkpointed("uid-a", "init"), checkpointed("uid-a"))
    assert told.read(*claims) == A
    assert told.leftovers == ()


def test_two_allocates_are_explained_by_two_containers_of_one_pod_only(told: Told) -> None:
    """Else the second might be another pod's, and the checkpoint the one before it."""
    told.pods(pod("a"), pod("b"))
    told.allocate()
    told.allocate()
    assert told.read(checkpointed("uid-a")) == Holder()
    assert told.read(checkpointed("uid-a", "init"), checkpointed("uid-a")) == A


@pytest.mark.parametrize("deleted", [True, False])
def test_slice_is_free_whose_pod_went_before_any_reading_showed_it(
    told: Told, *, deleted: bool
) -> None:
    """It was deleted during its admission, or refused by it; the kubelet had asked by then."""
    told.pods(pod("a"))
    told.allocate()
    told.now += 1
    told.pods(*([] if deleted else [pod("a", ended=True, stopped=True)]))
    assert told.holder == Holder()
    assert told.read(checkpointed("uid-a")) is None
    assert told.leftovers == ((A,) if deleted else ())


def test_pod_that_went_before_the_allocate_does_not_explain_it(told: Told) -> None:
    """The checkpoint is one that was written for it, and that no reading saw."""
    told.pods(pod("a"))
    told.pods(pod("b"))
    told.allocate()
    assert told.read(checkpointed("uid-a")) == Holder()
    assert told.read(checkpointed("uid-b")) == B


def test_pod_that_went_does_not_explain_an_allocate_while_another_is_listed(told: Told) -> None:
    told.pods(pod("a"), pod("b"))
    told.allocate()
    told.now += 1
    told.pods(pod("b"))
    assert told.read(listed("b"), checkpointed("uid-a")) == Holder("ns/b", "main")


def test_pod_that_was_made_anew_under_its_name_is_not_taken_for_the_one_before(told: Told) -> None:
    told.pods(pod("a", "first"))
    told.read(listed("a"), checkpointed("first"))
    told.allocate()
    assert told.read(listed("a"), checkpointed("first")) == Holder("ns/a", "main")
    told.pods()
    assert told.holder == Holder("ns/a", "main")
    told.pods(pod("a", "second"))
    assert told.read(listed("a"), checkpointed("second")) == Holder("ns/a", "main", "second")
    assert told.leftovers == (Holder("ns/a", "main", "first"),)


def test_pod_that_was_listed_and_is_no_longer_holds_nothing_though_no_checkpoint_named_it(
    told: Told,
) -> None:
    """The kubelet may leave an older checkpoint in place until it writes the next."""
    told.pods(pod("a"))
    told.allocate()
    assert told.read(listed("a")) == Holder("ns/a", "main")
    told.pods(pod("a", stopped=True))
    told.pods()
    assert told.holder == Holder("ns/a", "main")
    assert told.read() is None


def test_listed_pod_explains_an_allocate_where_there_is_no_checkpoint(told: Told) -> None:
    told.pods(pod("a"))
    told.allocate()
    assert told.read(listed("a"), complete=False) == A


def test_listed_pod_that_the_api_does_not_show_is_believed(told: Told) -> None:
    assert told.read(listed("a")) == Holder("ns/a", "main")


def test_pod_that_only_the_checkpoint_names_is_not(told: Told) -> None:
    assert told.read(checkpointed("uid-a")) is None


def test_checkpoint_tells_of_init_containers_of_live_pods(told: Told) -> None:
    told.pods(pod("a"))
    assert told.read(checkpointed("uid-a", "init")) == Holder("ns/a", "init", "uid-a")


def test_pod_that_has_ended_holds_nothing_though_both_sources_name_it(told: Told) -> None:
    told.pods(pod("a", ended=True))
    assert told.read(listed("a"), checkpointed("uid-a")) is None


def test_end_of_a_pod_ends_its_claim_when_another_of_its_name_has_come(told: Told) -> None:
    told.pods(pod("a", "first"))
    told.read(listed("a"))
    told.pods(pod("a", "second"))
    assert told.holder is None


def test_remembered_holder_holds_while_a_pod_of_its_name_lives(told: Told) -> None:
    told.pods(pod("a"))
    told.table.remember({ONE: Holder("ns/a", "main")})
    assert told.holder == Holder("ns/a", "main")
    told.pods(pod("a", ended=True))
    assert told.holder is None


def test_remembered_holder_gives_way_when_its_container_is_shown_elsewhere(told: Told) -> None:
    told.pods(pod("a"))
    told.table.remember({ONE: Holder("ns/a", "main")})
    told.read(listed("a", on=slice_(1)))
    assert told.table.holders == {slice_(1): A}
    assert told.leftovers == ()


def test_app_container_is_named_before_the_init_container_that_had_the_slice(told: Told) -> None:
    told.pods(pod("a"))
    claims = (listed("a", "app"), checkpointed("uid-a", "app"), checkpointed("uid-a", "init"))
    holder = told.read(*claims)
    assert holder is not None
    assert holder.container == "app"


def test_pod_that_vanishes_while_its_containers_run_is_left_over(told: Told) -> None:
    told.pods(pod("a"))
    told.read(listed("a"))
    told.pods()
    assert (told.holder, told.leftovers) == (None, (A,))
    assert told.table.holders == {ONE: A}
    told.table.vacate({ONE: (A,)})
    assert told.table.holders == {}


@pytest.mark.parametrize("last", [True, False])
def test_pod_whose_containers_were_seen_to_end_is_not(told: Told, *, last: bool) -> None:
    told.pods(pod("a"))
    told.read(listed("a"))
    told.pods(pod("a", stopped=True))
    told.pods(*([] if last else [pod("a", stopped=True, ended=True)]))
    assert (told.holder, told.leftovers) == (None, ())


def test_slice_that_another_pod_has_by_now_makes_the_earlier_one_left_over(told: Told) -> None:
    """The kubelet heard of the earlier one's end before the watch told us."""
    told.pods(pod("a"), pod("b"))
    told.read(listed("a"))
    assert told.read(listed("b")) == B
    assert told.leftovers == (A,)


def test_lost_slice_in_use_stands_again_when_its_gpu_shows(told: Told) -> None:
    used, free = slice_(5), slice_(6)
    told.pods(pod("a"))
    told.table.miss([used, free])
    told.table.remember({used: Holder("ns/a", "main")})
    gone = told.table.slices
    told.table.put_gpus([])
    assert told.table.slices == gone
    told.table.put_gpus([GPU])
    assert set(told.table.slices) == {*gone, used}
    assert told.table.is_bindable(used)
